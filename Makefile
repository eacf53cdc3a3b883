# FSTQ-Bench. One non-recursive Makefile; everything it makes lies in build/$(BUILD).
#   make                    the program, build/release/fstq
#   make demo | test        set-up, build, six methods compared | the test suite
#   make config             what was found
#   make bench | asan | fuzz | test-long | format | clean | dist | install PREFIX=/usr/local DESTDIR=
#   BUILD=release|debug|asan   CUDA=auto|0|1   CUDA_HOME=/usr/local/cuda   CUDA_ARCH="87 90"
#   CC=gcc|clang   MPI=auto|openmpi|mpich   V=1
BUILD  ?= release
CUDA   ?= auto
MPI    ?= auto
PREFIX ?= /usr/local
V      ?= 0
O      ?= build/$(BUILD)
PYTHON ?= /usr/bin/python3
CUDA_HOME ?= /usr/local/cuda

ifeq ($(origin CC),default)
CC := gcc
endif
Q := $(if $(filter 1,$(V)),,@)
PKG_CONFIG ?= pkg-config

# --- what is here ---------------------------------------------------------------------------------
MPI_openmpi := ompi-c
MPI_mpich := mpich
MPI_auto := $(or $(firstword $(foreach p,ompi-c mpich,$(if $(shell $(PKG_CONFIG) --exists $(p) && echo y),$(p)))),ompi-c)
ifeq ($(MPI_$(MPI)),)
$(error MPI=$(MPI): it is auto, openmpi or mpich)
endif
REQUIRED := $(MPI_$(MPI)) hdf5 hwloc openblas libxxhash jansson inih libzstd liblz4
GOALS_WITHOUT_LIBS := dist demo test test-long deps clean config help format bench asan fuzz base-model
ifneq ($(if $(MAKECMDGOALS),$(filter-out $(GOALS_WITHOUT_LIBS),$(MAKECMDGOALS)),all),)
MISSING := $(foreach p,$(REQUIRED),$(if $(shell $(PKG_CONFIG) --exists $(p) && echo y),,$(p)))
ifneq ($(strip $(MISSING)),)
$(error missing libraries: $(MISSING). Run scripts/deps.sh to install them)
endif
endif
PKG_CFLAGS := $(patsubst -I%,-isystem %,$(shell $(PKG_CONFIG) --cflags $(REQUIRED) 2>/dev/null))
PKG_LIBS   := $(shell $(PKG_CONFIG) --libs $(REQUIRED) 2>/dev/null)

NVCC := $(firstword $(wildcard $(CUDA_HOME)/bin/nvcc) $(shell command -v nvcc 2>/dev/null))
ifeq ($(CUDA),auto)
HAVE_CUDA := $(if $(NVCC),1,0)
else
HAVE_CUDA := $(CUDA)
endif
ifeq ($(HAVE_CUDA)$(NVCC),1)
$(error CUDA=1, but no nvcc in CUDA_HOME=$(CUDA_HOME) nor on PATH)
endif

# --- flags ----------------------------------------------------------------------------------------
WARN   := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror
# -g1: lines and functions, for profiles and traces of calls; variables are for BUILD=debug.
OPTS_release := -O3 -g1
OPTS_debug   := -O1 -g3
OPTS_asan    := -O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
# What GCC infers about ranges goes wrong under the sanitizers.
OPTS_asan    += -Wno-unknown-warning-option -Wno-format-truncation -Wno-maybe-uninitialized
# The corpus is replayed in seconds at any speed, and the compiler is what takes time. Without
# optimisation intrinsics are macros, whose constants change their sign.
OPTS_replay  := $(subst -O1,-O0,$(OPTS_asan)) -Wno-sign-conversion
OPTS_fuzz    := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
OPTS   := $(OPTS_$(BUILD))
ifeq ($(strip $(OPTS)),)
$(error BUILD=$(BUILD): it is release, debug or asan)
endif
# -ffp-contract=off: packed bytes and choices are the same on every machine (no fused multiply-add
# unless a kernel asks for it by intrinsic). assert() stays on in release.
CFLAGS_ALL := -std=c11 -D_GNU_SOURCE -ffp-contract=off -fno-math-errno -pthread $(WARN) $(OPTS) \
              -Isrc -I. -Ikernels $(PKG_CFLAGS) $(CPPFLAGS) $(CFLAGS)
LDLIBS_ALL := -Wl,--as-needed -lhdf5_hl $(PKG_LIBS) -lm -pthread -ldl $(OPTS) $(LDFLAGS) $(LDLIBS)

# --- sources --------------------------------------------------------------------------------------
# The row cuda needs CUDA's headers; tests build it a second time, against those of tests/emu.
CUDAROW := src/dev/dev_cuda.c $(sort $(wildcard src/dev/cuda_*.c))
SRC   := $(sort $(wildcard src/*.c src/*/*.c kernels/*.c bench/*.c))
ifneq ($(HAVE_CUDA),1)
SRC   := $(filter-out $(CUDAROW),$(SRC))
endif
MAIN  := src/main.c
CU    := $(sort $(wildcard kernels/*.cu))
LIBSRC := $(filter-out $(MAIN),$(SRC))
ifeq ($(HAVE_CUDA),1)
CFLAGS_ALL += -DHAVE_CUDA -isystem $(CUDA_HOME)/include
# cuBLAS is opened by name when a GPU is: the program starts where neither it nor a driver is.
LDLIBS_ALL += -L$(CUDA_HOME)/lib64 -lcudart_static -lrt
CUOBJ := $(CU:%.cu=$(O)/%.cu.o)
endif
LIBOBJ := $(LIBSRC:%.c=$(O)/%.o) $(CUOBJ)
UNIT  := $(sort $(wildcard tests/unit/*.c))
UNITBIN := $(UNIT:tests/unit/%.c=$(O)/tests/%)
FENCE := $(addprefix $(O)/tests/fence/,fence.o fence_ops.o fence_codec.o)
# GPU kernels on the CPU: the engine, and each .cu file as C++; checked, every access is watched.
EMU_ENGINE := $(patsubst %,$(O)/tests/emu/%.o,emu emu_memory emu_stream emu_runtime emu_blas) \
              $(CUDAROW:src/dev/%.c=$(O)/tests/emu/row/%.o)
EMU_PLAIN  := $(EMU_ENGINE) $(O)/tests/emu/emu_nocheck.o $(CU:kernels/%.cu=$(O)/tests/emu/plain/%.o)
EMU_CHECK  := $(EMU_ENGINE) $(O)/tests/emu/emu_check.o $(CU:kernels/%.cu=$(O)/tests/emu/check/%.o)
# What must be found, planted.
EMU_PLANT  := $(EMU_ENGINE) $(addprefix $(O)/tests/emu/,emu_check.o check/planted.o) \
              $(CU:kernels/%.cu=$(O)/tests/emu/check/%.o)
EMUBIN := $(O)/tests/fstq-emu $(addprefix $(O)/tests/emu/,check_kernels check_codecs costs)
PROGS := $(sort $(wildcard tests/mpi/*.c))
PROGBIN := $(PROGS:tests/mpi/%.c=$(O)/tests/mpi/%)
FUZZBIN := $(patsubst tests/%.c,$(O)/%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
PRELOADS := $(patsubst tests/preload/%.c,$(O)/tests/preload/%.so,$(sort $(wildcard tests/preload/*.c)))

.PHONY: all demo test test-long bench asan fuzz deps config format install clean help tests base-model
.PHONY: fuzzers replay dist check-install
.DELETE_ON_ERROR:
.SECONDARY:
all: $(O)/fstq

$(O)/libfstq.a: $(LIBOBJ)
	$(Q)rm -f $@ && $(AR) rcs $@ $^
$(O)/fstq: $(O)/$(MAIN:.c=.o) $(O)/libfstq.a
	@echo "  link $@"
	$(Q)$(CC) -o $@ $^ $(LDLIBS_ALL)
# Half a hundred programs to link: by the faster linker where there is one.
TEST_LD := $(shell $(CC) -fuse-ld=gold -Wl,--version >/dev/null 2>&1 && echo -fuse-ld=gold)
$(O)/tests/%: $(O)/tests/unit/%.o $(FENCE) $(O)/libfstq.a
	$(Q)$(CC) $(TEST_LD) -o $@ $(filter-out %.a,$^) $(O)/libfstq.a -lcmocka -lstdc++ $(LDLIBS_ALL)
$(patsubst %,$(O)/tests/%,test_kernels test_dev test_model test_families test_infer test_codec_stages): $(EMU_PLAIN)
$(O)/tests/test_emu: $(EMU_PLANT)
$(O)/tests/emu/check_kernels: $(O)/tests/unit/test_kernels.o
$(O)/tests/emu/check_codecs: $(O)/tests/unit/test_codec_stages.o
$(O)/tests/emu/costs: $(O)/tests/emu/costs.o
$(O)/tests/emu/check_kernels $(O)/tests/emu/check_codecs $(O)/tests/emu/costs: $(FENCE) $(EMU_CHECK) $(O)/libfstq.a
	$(Q)$(CC) $(TEST_LD) -o $@ $(filter-out %.a,$^) $(O)/libfstq.a -lcmocka -lstdc++ $(LDLIBS_ALL)
# The program with one more device, which auto takes: memory that host code cannot touch.
$(O)/tests/fstq-fence: $(O)/$(MAIN:.c=.o) $(FENCE) $(O)/libfstq.a
	$(Q)$(CC) -o $@ $^ $(LDLIBS_ALL)
$(O)/tests/fstq-emu: $(O)/$(MAIN:.c=.o) $(FENCE) $(EMU_PLAIN) $(O)/libfstq.a
	$(Q)$(CC) -o $@ $^ -lstdc++ $(LDLIBS_ALL)
CXXFLAGS_ALL := -std=c++17 -g -Wall -Wextra -Wpedantic -Wshadow -Werror -fno-exceptions -fno-rtti \
                -ffp-contract=off -Itests/emu -Isrc -I. -Ikernels $(PKG_CFLAGS) -MMD -MP
SANITIZE := $(filter -fsanitize=% -fno-sanitize-recover=%,$(OPTS))
$(O)/tests/fence/%.o: tests/fence/%.cc $(O)/flags
	@mkdir -p $(@D)
	$(Q)$(CXX) -O1 $(CXXFLAGS_ALL) $(SANITIZE) -c -o $@ $<
$(O)/tests/emu/%.o: tests/emu/%.cc $(O)/flags
	@mkdir -p $(@D)
	$(Q)$(CXX) -O2 $(CXXFLAGS_ALL) $(SANITIZE) -c -o $@ $<
$(O)/tests/emu/plain/%.o: kernels/%.cu $(O)/flags
	@mkdir -p $(@D)
	$(Q)$(CXX) -O2 $(CXXFLAGS_ALL) $(SANITIZE) -x c++ -c -o $@ $<
$(O)/tests/emu/check/%.o: kernels/%.cu $(O)/flags
	@mkdir -p $(@D)
	$(Q)$(CXX) -O1 $(CXXFLAGS_ALL) -fsanitize=thread -x c++ -c -o $@ $<
$(O)/tests/emu/check/planted.o: tests/emu/planted.cu $(O)/flags
	@mkdir -p $(@D)
	$(Q)$(CXX) -O1 $(CXXFLAGS_ALL) -fsanitize=thread -x c++ -c -o $@ $<
$(O)/tests/emu/row/%.o: src/dev/%.c $(O)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) -Itests/emu -DCUDA_EMULATED=1 $(CFLAGS_ALL) -O1 -MMD -MP -c -o $@ $<
$(O)/tests/mpi/%: $(O)/tests/mpi/%.o $(O)/libfstq.a
	@mkdir -p $(@D)
	$(Q)$(CC) -o $@ $^ $(LDLIBS_ALL)
$(O)/tests/preload/%.so: tests/preload/%.c
	@mkdir -p $(@D)
	$(Q)$(CC) -std=c11 -D_GNU_SOURCE -O1 -fPIC -shared -Wall -Wextra -Werror -o $@ $< -ldl
# Decoders need no commands, benches or comparisons.
DECODERS := $(filter-out bench/% src/compare/% src/cmd_%,$(LIBSRC))
# Of a replay only what reads bytes from outside is sanitised: the rest is the tested build's, which
# saves half of the compiler's time.
ifneq ($(PLAIN),)
TRAINING := attention ce choose dots embed factor gemm gemv halves linear merge mix norm optim rope swiglu whole
DECODERS := $(filter-out $(TRAINING:%=kernels/%.c), \
              $(filter kernels/% src/base/% src/codec/% src/net/% src/task/% src/trace/% src/report/export%,$(LIBSRC))) \
            $(patsubst %,src/fed/%.c,checkpoint datagram downlink late presence profile protocol relay side_cache \
              side_message split worth) \
            $(patsubst %,src/model/%.c,builtin family load load_gguf model peft safetensors scores tokens update_file)
endif
$(O)/libdecoders.a: $(DECODERS:%.c=$(O)/%.o)
	$(Q)rm -f $@ && $(AR) rcs $@ $^
# A fuzz target needs libFuzzer's main, or ours, which replays the corpus.
$(O)/fuzz/%: $(O)/tests/fuzz/%.o $(if $(filter fuzz,$(BUILD)),,$(O)/tests/fuzz/replay.o) $(O)/libdecoders.a $(PLAIN)
	@mkdir -p $(@D)
	$(Q)$(CC) $(TEST_LD) -o $@ $^ $(if $(filter fuzz,$(BUILD)),-fsanitize=fuzzer) $(LDLIBS_ALL)
$(O)/%.o: %.c $(O)/flags
	@mkdir -p $(@D)
	@echo "  cc   $<"
	$(Q)$(CC) $(CFLAGS_ALL) $(if $(filter tests/%,$<),-O1) $(CFLAGS_$(basename $(notdir $<))) -MMD -MP -c -o $@ $<

# Other flags or another compiler: everything anew.
$(O)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(CFLAGS_ALL)' > $@.new
	@cmp -s $@ $@.new && rm $@.new || mv $@.new $@

# Build facts: written only when they change, so that nothing is recompiled for nothing.
GIT_REV := $(shell cat REVISION 2>/dev/null || git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
FACTS := "$(GIT_REV)" "$(shell $(CC) --version 2>/dev/null | head -n 1)" "$(OPTS)" "$(BUILD)" \
         "$(shell $(CC) -dumpmachine 2>/dev/null)" \
         "$(if $(filter 1,$(HAVE_CUDA)),$(shell $(NVCC) --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p'),none)"
$(O)/facts.h: FORCE
	@mkdir -p $(@D)
	@printf '#define BUILD_GIT_REV "%s"\n#define BUILD_COMPILER "%s"\n#define BUILD_CFLAGS "%s"\n#define BUILD_KIND "%s"\n#define BUILD_TARGET "%s"\n#define BUILD_CUDA "%s"\n' $(FACTS) > $@.new
	@cmp -s $@ $@.new && rm $@.new || mv $@.new $@
.PHONY: FORCE
FORCE:
$(O)/src/base/buildinfo.o: $(O)/facts.h
CFLAGS_buildinfo = -I$(O)
# Training kernels may fuse multiply and add; codec kernels (packed bytes) may not.
$(foreach k,attention ce embed gemm gemv halves linear norm optim rope swiglu,$(eval CFLAGS_$(k) = -ffp-contract=fast))
# The codecs' hot loops begin on a line of the cache: else a new function beside them can cost 20%.
$(foreach k,pack philox quant quant_pack quantise rotate rotation sums,$(eval CFLAGS_$(k) = -falign-functions=64 -falign-loops=32))

$(O)/src/model/builtin.o: src/model/base.safetensors
$(O)/src/report/paper.o: configs/paper/as-reported.csv

# Few, so that building stays quick: what is newer than the last one is made of its PTX when the
# program starts. CUDA_ARCH="72 87 90 110 120": code for all of these.
CUDA_ARCH ?=
NVCC_MAJOR := $(if $(filter 1,$(HAVE_CUDA)),$(shell $(NVCC) --version 2>/dev/null | sed -n 's/.*release \([0-9]*\)\..*/\1/p'))
ARCHES := $(if $(CUDA_ARCH),$(subst ;, ,$(CUDA_ARCH)),$(if $(filter 11,$(NVCC_MAJOR)),72 87,87))
NVFLAGS := -std=c++17 -O3 -lineinfo -ftz=false -prec-div=true -prec-sqrt=true -Isrc -I. -Ikernels \
           -Xcompiler -fno-threadsafe-statics,-fno-exceptions,-fno-rtti,-Wall,-Wextra -Xptxas -v \
           $(foreach a,$(ARCHES),-gencode arch=compute_$(a),code=sm_$(a)) \
           -gencode arch=compute_$(lastword $(ARCHES)),code=compute_$(lastword $(ARCHES))
# Codecs give the CPU's bytes.
NVFLAGS_quantise := -fmad=false
NVFLAGS_entropy := -fmad=false
NVFLAGS_mix := -fmad=false
NVFLAGS_rotate := -fmad=false
NVFLAGS_select := -fmad=false
NVFLAGS_widths := -fmad=false
# Beside the object stays what scripts/check_gpu_code.py looks at: ptxas's words and the PTX.
$(O)/%.cu.o: %.cu $(O)/nvflags
	@rm -rf $(@:.o=.keep) && mkdir -p $(@:.o=.keep)
	@echo "  nvcc $<"
	$(Q)$(NVCC) $(NVFLAGS) $(NVFLAGS_$(basename $(notdir $<))) -MMD -MP -keep -keep-dir $(@:.o=.keep) -c -o $@ $< >$(@:.o=.log) 2>&1 || \
	  { cat $(@:.o=.log); exit 1; }
	@cat $(@:.o=.keep)/*.ptx >$(@:.o=.ptx) && rm -rf $(@:.o=.keep)
$(O)/nvflags: FORCE
	@mkdir -p $(@D)
	@echo '$(NVCC) $(NVFLAGS)' > $@.new
	@cmp -s $@ $@.new && rm $@.new || mv $@.new $@

-include $(shell find $(O) -name '*.d' 2>/dev/null)

# --- the two commands, and the rest ---------------------------------------------------------------
# As many jobs as there are cores, unless -j says how many.
SUBMAKE = $(MAKE) --no-print-directory $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc))
deps:
	@scripts/deps.sh
demo: deps
	+@$(SUBMAKE) all
	@scripts/demo.sh $(O)
test: deps
	+@$(SUBMAKE) all tests
	+@$(SUBMAKE) replay
	@tests/run.sh $(O)
test-long: deps
	+@$(SUBMAKE) all tests
	+@$(SUBMAKE) replay
	@FSTQ_TEST_LONG=1 tests/run.sh $(O)
tests: $(UNITBIN) $(O)/tests/fstq-fence $(EMUBIN) $(PROGBIN) $(PRELOADS)
fuzzers: $(FUZZBIN)
# Every decoder's corpus under ASan and UBSan, with the compiler at hand.
replay: $(O)/libfstq.a
	+@$(SUBMAKE) BUILD=replay CUDA=$(HAVE_CUDA) O=build/replay PLAIN=$(O)/libfstq.a fuzzers
bench: deps
	+@$(SUBMAKE) all
	@$(O)/fstq bench
asan: deps
	+@$(SUBMAKE) BUILD=asan CUDA=0 O=build/asan all tests
fuzz: deps
	@tests/fuzz/run.sh
# The embedded base model again, from its config and seed; it must come out as the committed file.
base-model: deps
	@$(MAKE) --no-print-directory all
	$(O)/fstq pretrain configs/base-model.ini pretrain.file=$(O)/base.safetensors
	@cmp $(O)/base.safetensors src/model/base.safetensors && echo "base-model: the same as src/model/base.safetensors" || \
	  { echo "base-model: differs from src/model/base.safetensors (other compiler or processor?); copy $(O)/base.safetensors there to use it"; exit 1; }
format:
	@clang-format -i $(shell git ls-files '*.c' '*.h')
# Parts of scripts, which are no programs.
PYTHON_PARTS = scripts/plot_style.py scripts/rank_correlation.py $(wildcard scripts/report_*.py)
ZSH_DIR ?= share/zsh/site-functions
install: all
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,bin share/fstq/configs/paper share/fstq/scripts \
	  share/fstq/schemas share/man/man1 share/man/man5 share/bash-completion/completions \
	  $(ZSH_DIR))
	install -m 755 $(O)/fstq scripts/fstq-run $(DESTDIR)$(PREFIX)/bin
	install -m 644 $(wildcard configs/*.ini) $(DESTDIR)$(PREFIX)/share/fstq/configs
	install -m 644 $(wildcard configs/paper/*) $(DESTDIR)$(PREFIX)/share/fstq/configs/paper
	install -m 644 $(wildcard schemas/*.json) $(DESTDIR)$(PREFIX)/share/fstq/schemas
	install -m 755 $(filter-out $(PYTHON_PARTS),$(wildcard scripts/*.py)) scripts/netns-cluster.sh \
	  scripts/fstq.sbatch $(DESTDIR)$(PREFIX)/share/fstq/scripts
	install -m 644 $(PYTHON_PARTS) packaging/reframe_fstq.py scripts/report.css scripts/report.js $(DESTDIR)$(PREFIX)/share/fstq/scripts
	$(O)/fstq help --man > $(DESTDIR)$(PREFIX)/share/man/man1/fstq.1
	(printf '.TH FSTQ-RUN 1\n.SH NAME\nfstq-run \\- start fstq on MPI ranks\n.SH DESCRIPTION\n.nf\n'; \
	  scripts/fstq-run --help | sed 's/\\/\\e/g; s/-/\\-/g; s/^[.'"'"']/\\\&&/') > $(DESTDIR)$(PREFIX)/share/man/man1/fstq-run.1
	$(O)/fstq help --man5 > $(DESTDIR)$(PREFIX)/share/man/man5/fstq.5
	$(O)/fstq help --bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/fstq
	$(O)/fstq help --zsh > $(DESTDIR)$(PREFIX)/$(ZSH_DIR)/_fstq
# Installed into a root of its own, moved, and tried there.
check-install: all
	@tests/run.sh $(O) cli/install
# The sources of HEAD; the file REVISION in them says which that is.
VERSION = $(shell sed -n 's/.*FSTQ_VERSION "\(.*\)"/\1/p' src/base/buildinfo.h)
dist:
	@mkdir -p build
	git archive --format=tar --prefix=fstq-$(VERSION)/ \
	  --add-virtual-file=fstq-$(VERSION)/REVISION:$(shell git rev-parse --short=12 HEAD) HEAD | \
	  gzip -9n > build/fstq-$(VERSION).tar.gz
	@echo build/fstq-$(VERSION).tar.gz
config:
	@echo "CC        $(CC)  ($(shell $(CC) --version 2>/dev/null | head -n 1))"
	@echo "BUILD     $(BUILD)  $(OPTS)"
	@$(foreach p,$(REQUIRED),echo "$(p)" | awk '{printf "%-10s", $$1}'; $(PKG_CONFIG) --modversion $(p) 2>/dev/null || echo "not found";)
	@echo "cmocka    $(shell $(PKG_CONFIG) --modversion cmocka 2>/dev/null || echo 'not found (tests only)')"
	@echo "CUDA      $(if $(filter 1,$(HAVE_CUDA)),$(NVCC) for $(ARCHES),no: $(if $(NVCC),CUDA=$(CUDA),no nvcc))"
	@echo "python    $(shell $(PYTHON) -c 'import sys,h5py,numpy,matplotlib;print(sys.executable,sys.version.split()[0],"h5py",h5py.__version__)' 2>/dev/null || echo 'no h5py, numpy or matplotlib: plots only')"
clean:
	rm -rf build
help:
	@sed -n '2,6s/^# *//p' Makefile; echo; echo Targets:
	@sed -n 's/^\([a-z][a-z-]*\):.*/\1/p' Makefile | sort -u | tr '\n' ' '; echo
