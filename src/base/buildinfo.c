#include "base/buildinfo.h"

#include "facts.h"

const struct buildinfo buildinfo = {
    .version = FSTQ_VERSION,
    .git_rev = BUILD_GIT_REV,
    .compiler = BUILD_COMPILER,
    .cflags = BUILD_CFLAGS,
    .kind = BUILD_KIND,
    .target = BUILD_TARGET,
    .cuda = BUILD_CUDA,
};
