# make demo: train, stream and compare, in about ten minutes on two cores. make test: prove the program right.

PERENNIAL = target/release/perennial
VENV = target/venv

.PHONY: build demo test bench emoji clean

build:
	cargo build --release --locked

# A small CLIP learns emoji, then meets 98 classes in 10 tasks, with and without the papers' methods.
demo: build
	$(PERENNIAL) run emoji-pretrain --out runs/emoji-pretrain
	$(PERENNIAL) compare emoji-cil --methods zero-shot,sequential,gcl,gdro,joint --out runs/demo

# One profile for everything: the tests train real, if tiny, models.
test:
	cargo test --release --locked

# The same training step in PyTorch and here, on this machine in turn; prints the ratio.
bench: build $(VENV)
	$(VENV)/bin/python benches/torch_clip.py --perennial $(PERENNIAL) --model presets/models/emoji-small.json --batch 64

$(VENV):
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet torch open_clip_torch safetensors numpy

# Draws the bundled data set again from its sources and compares, bit for bit.
emoji:
	node data/emoji/rebuild.mjs --check

clean:
	cargo clean
