#!/usr/bin/env bash
# Installs from the distribution what is missing to build and test Nereus; silent when nothing is.
#
#   scripts/bootstrap.sh          the program and its tests
#   scripts/bootstrap.sh test     and, for root, Slurm with its accounting: tests that start it are
#                                 skipped where it cannot be installed
#   scripts/bootstrap.sh check    and clang-format, clang-tidy, clang with libFuzzer
#   scripts/bootstrap.sh viewers  what the tests read a run's files with: Chromium, and in
#                                 .cache/viewers TensorBoard, wandb and promtool; their tests are
#                                 skipped where one cannot be installed
#
# Debian 12 and Ubuntu 24.04, as root or with sudo. Exit code 2: something is missing and cannot be
# installed from here; the message names the packages.
set -euo pipefail
PATH=$PATH:/usr/sbin

# package, and what shows that it is there: a command, or a header under an include folder.
build_packages=(
  "g++ command:g++"
  "make command:make"
  "cmake command:cmake"
  "ninja-build command:ninja"
  "zlib1g-dev header:zlib.h"
  "libisal-dev header:isa-l/igzip_lib.h"
  "libpcre2-dev header:pcre2.h"
  "libyaml-cpp-dev header:yaml-cpp/yaml.h"
  "libsqlite3-dev header:sqlite3.h"
  "libzstd-dev header:zstd.h"
  "libsimdjson-dev header:simdjson.h"
  "libprotozero-dev header:protozero/pbf_writer.hpp"
  "prometheus-cpp-dev header:prometheus/exposer.h"
  "libcurl4-openssl-dev header:curl/curl.h"
  "libssl-dev header:openssl/evp.h"
  "libgtest-dev header:gtest/gtest.h"
  "libgmock-dev header:gmock/gmock.h"
  "librapidcheck-dev header:rapidcheck.h"
  "libopenmpi-dev command:mpicc"
  "openmpi-bin command:mpirun"
  "ccache command:ccache"
)
test_packages=(
  "slurm-wlm command:slurmctld"
  "munge command:munged"
  "slurmdbd command:slurmdbd"
  "mariadb-server-core command:mariadbd"
)
viewer_packages=(
  "chromium command:chromium"
  "python3-venv python:ensurepip"
)
check_packages=(
  "clang-format-14 command:clang-format-14"
  "clang-tidy-14 command:clang-tidy-14"
  "clang command:clang++"
  "libclang-rt-dev clang:libclang_rt.fuzzer-x86_64.a"
)

is_there() {
  local kind=${1%%:*} name=${1#*:} folder
  case $kind in
    command) command -v "$name" >/dev/null ;;
    header)
      for folder in /usr/include /usr/include/*-linux-gnu /usr/local/include; do
        [[ -e $folder/$name ]] && return 0
      done
      return 1
      ;;
    python) python3 -c "import $name" 2>/dev/null ;;
    clang) command -v clang++ >/dev/null && [[ -e $(clang++ --print-file-name="$name") ]] ||
      compgen -G "/usr/lib/clang/*/lib/linux/$name" >/dev/null ;;
  esac
}

wanted=("${build_packages[@]}")
optional=  # the tests that are skipped when a package cannot be installed
case ${1:-} in
  "") ;;
  test)
    "$0"
    [[ $EUID -eq 0 ]] || exit 0
    wanted=("${test_packages[@]}")
    optional="that start Slurm"
    ;;
  viewers)
    "$0" viewer-packages
    exec "$(dirname "$0")/install-viewers.sh"
    ;;
  viewer-packages)
    wanted=("${viewer_packages[@]}")
    optional="that open files in viewers"
    ;;
  check) wanted+=("${check_packages[@]}") ;;
  *)
    sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

missing=()
for line in "${wanted[@]}"; do
  is_there "${line#* }" || missing+=("${line%% *}")
done
[[ ${#missing[@]} -eq 0 ]] && exit 0

refuse() {
  echo "error: $1" >&2
  echo "  Missing, by their names in Debian and Ubuntu: ${missing[*]}" >&2
  echo "  $2" >&2
  [[ -z $optional ]] || { echo "  The tests $optional will be skipped." >&2 && exit 0; }
  exit 2
}

distribution=$(. /etc/os-release 2>/dev/null && echo "${PRETTY_NAME:-unknown}" || echo unknown)
command -v apt-get >/dev/null ||
  refuse "this system ($distribution) has no apt-get, so nothing can be installed from here." \
    "Install their counterparts, then run this again."
as_root=()
if [[ $EUID -ne 0 ]]; then
  command -v sudo >/dev/null ||
    refuse "installing needs root, and there is no sudo." \
      "Run as root: apt-get install ${missing[*]}"
  as_root=(sudo)
fi

echo "Installing ${missing[*]}"
apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -qq "$@"
}
install() { apt install -y --no-install-recommends "${missing[@]}" >/dev/null; }
all_known() {
  local package
  for package in "${missing[@]}"; do apt-cache show "$package" >/dev/null 2>&1 || return 1; done
}
all_known || apt update || true
# Known packages may be newer on the mirror than in the lists: once more with fresh ones.
install || { apt update && install; } || {
  if [[ -n $optional ]]; then  # what can be, one by one: a name that is not known stops all
    for package in "${missing[@]}"; do
      apt install -y --no-install-recommends "$package" >/dev/null || true
    done
    refuse "apt-get could not install everything on $distribution (its messages are above)." \
      "Debian 12 has all of them; Ubuntu 24.04 has Chromium as a snap alone."
  fi
  refuse "apt-get could not install everything on $distribution (its messages are above)." \
    "Debian 12 and Ubuntu 24.04 (with universe) have all of them."
}
