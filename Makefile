# make demo: train, stream and compare, in about ten minutes on two cores. make check: the short round while working.
# make test: prove the program right.

PERENNIAL = target/release/perennial
VENV = target/venv
# The compiler of the CUDA kernels and their disassembler, from PyPI where no toolkit is installed. Drivers load what an older
# CUDA compiled: one build with 12.8 serves every driver from R525 (CUDA 12.0) on. For another compiler give its package:
# make NVRTC_PACKAGE='nvidia-cuda-nvrtc==13.0.*'
NVRTC_PACKAGE = nvidia-cuda-nvrtc-cu12==12.8.*
NVRTC_FOLDER = $(subst *,x,$(subst ==,-,$(NVRTC_PACKAGE)))
NVRTC = nvrtc
NVDISASM = target/nvrtc/nvdisasm.fetched
ifneq ($(PERENNIAL_NVRTC)$(CUDA_HOME)$(CUDA_PATH)$(wildcard /usr/local/cuda/lib64/libnvrtc.so*),)
NVRTC =
endif

.PHONY: build tools nvrtc chromium nasm pretrain demo compare check test figures bench interop dist emoji clean

build: $(NVRTC) nasm
	cargo build --release --locked

# What the kernels are compiled and disassembled with, and the browser in which the tests look at the report.
tools: $(NVRTC) $(NVDISASM) chromium nasm

chromium:
	@command -v chromium || command -v chromium-browser || command -v google-chrome || command -v chrome || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get; then \
	    apt-get update -q && apt-get install -y -q --no-install-recommends chromium fonts-liberation; \
	else echo "tests/program/report.rs needs Chromium; on Debian: apt-get install chromium fonts-liberation"; exit 1; fi

# The assembler of libjpeg-turbo's vector code. Without it the C code alone is built: more slowly, and
# of pictures that are damaged inside, other pixels than Pillow's.
nasm:
	@command -v nasm || { [ "$$(id -u)" = 0 ] && command -v apt-get && \
	    apt-get update -q && apt-get install -y -q --no-install-recommends nasm; } || \
	echo "without nasm JPEGs are decoded more slowly; on Debian: apt-get install nasm"

# Fetches the package unless it is there, and says that it is the one to be used.
nvrtc: target/nvrtc/$(NVRTC_FOLDER)/fetched
	@echo $(NVRTC_FOLDER) | cmp -s - target/nvrtc/package || echo $(NVRTC_FOLDER) > target/nvrtc/package

target/nvrtc/$(NVRTC_FOLDER)/fetched:
	$(call fetch,$(NVRTC_PACKAGE),target/nvrtc/$(NVRTC_FOLDER))
	touch $@

$(NVDISASM):
	$(call fetch,nvidia-cuda-nvdisasm==13.*,target/nvrtc)
	touch $@

# The files of a Python package, unpacked into a folder; its programs made executable.
define fetch
mkdir -p $(2)/wheels
python3 -m pip download --quiet --no-deps --dest $(2)/wheels '$(1)'
for wheel in $(2)/wheels/*.whl; do python3 -m zipfile -e $$wheel $(2); done
chmod -f +x $(2)/nvidia/*/bin/* || true
rm -r $(2)/wheels
endef

# A small CLIP learns emoji; where it has already, this takes no time.
pretrain: build
	$(PERENNIAL) run emoji-pretrain --out runs/emoji-pretrain

# It meets 98 classes in 10 tasks, with and without the papers' methods.
demo: pretrain
	$(PERENNIAL) compare emoji-cil --methods zero-shot,sequential,gcl,gdro,joint --out runs/demo
	@$(PERENNIAL) report runs/demo/*/ --html runs/demo/report.html >/dev/null
	@echo "the report, a page for a browser: runs/demo/report.html"

# The same with every method that there is; prints the table. Stopped, it goes on with the runs that are not finished.
compare: pretrain
	$(PERENNIAL) compare emoji-cil --methods $$($(PERENNIAL) list methods | cut -d' ' -f1 | paste -sd, -) \
		--memory 500 --seeds 1 --out runs/compare

# In under a minute once it is built: lints, the docs' figures, unit tests, one op on the emulated GPU, and a run of seconds with its report.
CHECKED = cargo run --quiet --release --locked --features emulator --
check: $(NVRTC) nasm
	cargo fmt --check
	python3 benches/results.py --check
	cargo clippy --quiet --release --all-targets --features emulator --locked -- -D warnings
	cargo test --quiet --release --locked --features emulator --lib
	$(CHECKED) check --device emulated --only layer_norm
	$(CHECKED) run tests/fixtures/tiny-run.toml --start-over --out target/check/run
	$(CHECKED) report target/check/run --html target/check/report.html

# README's and docs' tables, from the figures under benches/results/.
figures:
	python3 benches/results.py

# One profile for everything: the tests train real, if tiny, models. The feature is the emulated GPU.
test: tools
	cargo test --release --locked --features emulator

# One stripped file that needs libc and, for a GPU, NVIDIA's driver.
dist: $(NVRTC) nasm
	cargo build --profile dist --locked
	@ls -l target/dist/perennial
	@test $$(stat -c %s target/dist/perennial) -lt 30000000 || { echo "it is larger than 30 MB"; exit 1; }
	@! ldd target/dist/perennial | grep -v -E 'linux-vdso|libgcc_s|libm\.|libc\.|libdl|libpthread|ld-linux' || exit 1

# The same training step in PyTorch and here, on this machine in turn; prints the ratio.
bench: build $(VENV)
	$(VENV)/bin/python benches/torch_clip.py --perennial $(PERENNIAL) --model presets/models/emoji-small.json --batch 64

# Weights, pictures and tokens against open_clip, transformers and Pillow, both ways; prints a table. Twenty minutes on two cores.
interop: build $(VENV)
	$(VENV)/bin/pip install --quiet transformers scikit-image
	$(VENV)/bin/python tests/interop/interop.py --perennial $(PERENNIAL)

# The same JPEGs by open_clip's loader and here, from files and packed, in turn; prints the ratios.
bench-loader: build $(VENV)
	$(VENV)/bin/python benches/loader.py --perennial $(PERENNIAL) --folder target/loader

$(VENV):
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet torch open_clip_torch safetensors numpy

# Draws the bundled data set again from its sources and compares, bit for bit.
emoji:
	node data/emoji/rebuild.mjs --check

clean:
	cargo clean
