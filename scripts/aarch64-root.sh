#!/usr/bin/env bash
# A folder with this distribution's libraries for aarch64, to compile and test for boards on another
# machine. Nothing is installed: packages are fetched and unpacked, with lists of their own.
#   scripts/aarch64-root.sh DIR            about 600 MB; needs apt-get, and no root
#   FSTQ_AARCH64_ROOT=DIR make test-long   compiles with it, and runs the unit tests under qemu
# Compiling needs gcc-aarch64-linux-gnu and g++-aarch64-linux-gnu, running qemu-user.
set -eu
dir=${1:?usage: scripts/aarch64-root.sh DIR}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
want=(libopenmpi-dev libhdf5-dev libhwloc-dev libopenblas-pthread-dev libxxhash-dev libjansson-dev
    libinih-dev libzstd-dev liblz4-dev libcmocka-dev libstdc++6 libc6-dev)
state=$dir/.apt
mkdir -p "$state/lists/partial" "$state/archives/partial"
: >"$state/status"
options=(-o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$state"
    -o Dir::State::lists="$state/lists" -o Dir::State::status="$state/status"
    -o Dir::Cache="$state" -o Dir::Cache::archives="$state/archives"
    -o Debug::NoLocking=1 -o APT::Install-Recommends=0 -o APT::Sandbox::User=)
apt-get "${options[@]}" -q update
apt-get "${options[@]}" -q -y --download-only install "${want[@]}"
for package in "$state"/archives/*.deb; do
    dpkg-deb -x "$package" "$dir"
done
# What the packages' own scripts would choose.
cd "$dir/usr/lib/aarch64-linux-gnu"
ln -sf hdf5-serial.pc pkgconfig/hdf5.pc
ln -sf ../openblas-pthread/pkgconfig/openblas.pc pkgconfig/openblas.pc
for name in libopenblas.so libopenblas.so.0 libblas.so.3 liblapack.so.3; do
    [ ! -e "openblas-pthread/$name" ] || ln -sf "openblas-pthread/$name" "$name"
done
rm -rf "$state"
# Links from the root of a system lead into this one.
find "$dir" -type l -lname '/*' -print0 | while IFS= read -r -d '' link; do
    ln -sfn "$dir$(readlink "$link")" "$link"
done
echo "# $dir: libraries for aarch64"
