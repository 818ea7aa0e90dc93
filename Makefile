# The project's commands. `make train` and `make test` need nothing but this folder: they install
# what is missing from the distribution, build, and run.
#
#   make train      trains the small default model on the CPU          ARGS="--training.steps=50"
#   make test       builds and runs all tests                          PRESET=ci|asan|tsan
#   make            only the program: build/nereus
#   make install    into PREFIX (default /usr/local)
#   make package    one .tar.zst that runs on other Linux systems and in containers; PACKAGE=cuda
#   make check      formatting, layers, house rules; `make tidy` is the slow half
#   make format     formats all sources       make fuzz    each fuzz target for FUZZ_SECONDS
#   make clean      removes the build folders; runs under outputs/ stay

PRESET ?= release
JOBS ?= $(shell nproc)
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60
BUILD := build$(if $(filter-out release,$(PRESET)),-$(PRESET))

.DEFAULT_GOAL := program
.PHONY: program train test install package check tidy format fuzz clean bootstrap configure

bootstrap:
	@scripts/bootstrap.sh

configure: bootstrap
	@cmake --preset $(PRESET) $(CMAKE_ARGS) --log-level=STATUS

program: configure
	@cmake --build $(BUILD) --parallel $(JOBS) --target nereus

train: program
	$(BUILD)/nereus train configs/tiny.toml $(ARGS)
	@echo "Next: '$(BUILD)/nereus train configs/tiny.toml --nproc 2' trains on two ranks,"
	@echo "      '$(BUILD)/nereus train configs/slice1.toml --dry-run' says what layers of the 671B model need;"
	@echo "      README.md goes on with clusters and GPUs, docs/configuration.md has every key."

test: configure
	@scripts/bootstrap.sh test
	@cmake --build $(BUILD) --parallel $(JOBS)
	@ctest --test-dir $(BUILD) --output-on-failure --no-tests=error --parallel $(JOBS)

install: program
	@cmake --install $(BUILD) --prefix $(PREFIX)

package: bootstrap
	@JOBS=$(JOBS) scripts/package.sh $(PACKAGE)

check:
	@scripts/check.sh

tidy:
	@scripts/bootstrap.sh check
	@scripts/check.sh --tidy

format:
	@scripts/bootstrap.sh check
	@scripts/check.sh --format

fuzz:
	@scripts/bootstrap.sh check
	@scripts/fuzz.sh $(FUZZ_SECONDS)

clean:
	@rm -rf build build-ci build-asan build-tsan build-fuzz build-tidy
