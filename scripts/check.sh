#!/usr/bin/env bash
# The house rules that a program can judge. Prints each violation as file:line: rule.
#
#   scripts/check.sh               formatting, layers, sizes, words: seconds
#   scripts/check.sh --tidy [F..]  clang-tidy on all sources, or on those named: minutes
#   scripts/check.sh --format      formats all sources in place
set -u
shopt -s lastpipe  # report() counts in this shell
cd "$(dirname "$0")/.." || exit 1

failures=0
report() {  # reads violations from standard input
  local line
  while IFS= read -r line; do
    echo "$line"
    failures=$((failures + 1))
  done
}

# Tracked and new files, without vendored ones and data.
files() { git ls-files --cached --others --exclude-standard -- "$@" | sort -u |
  while IFS= read -r f; do [[ -e $f ]] && echo "$f"; done; }
sources() { files 'src/*.cc' 'src/*.h' 'src/*.cu' 'src/*.cuh'; }

clang_tool() {  # the tool in version 14: others format differently and find other things
  local tool
  for tool in "$1-14" "$1"; do
    if command -v "$tool" >/dev/null && "$tool" --version | grep -q 'version 14\.'; then
      echo "$tool"
      return
    fi
  done
}

check_format() {
  local tool
  tool=$(clang_tool clang-format)
  if [[ -z $tool ]]; then
    echo "formatting: skipped, no clang-format 14 (scripts/bootstrap.sh check installs it)"
    return
  fi
  sources | xargs "$tool" --dry-run 2>&1 | grep 'clang-format-violations' |
    sed 's/ warning: code should be clang-formatted.*/ not formatted (make format)/' |
    sort -t: -k1,1 -u | report
}

# A folder may include what src/CMakeLists.txt says it depends on, directly or through others.
# Tests may use test/ too, and programs' main.cc everything.
check_layers() {
  sources | xargs grep -Hn '^#include "' | awk -F'[:"]' '
    BEGIN {
      while ((getline line < "src/CMakeLists.txt") > 0) {
        if (line !~ /^ *nereus_layer\(/) continue
        gsub(/^ *nereus_layer\(|\).*/, "", line)
        n = split(line, word, " ")
        layer = word[1]; known[layer] = 1; depends = 0
        for (i = 2; i <= n; ++i) {
          if (word[i] ~ /^[A-Z_]+$/) depends = (word[i] == "DEPENDS")
          else if (depends) may[layer, word[i]] = 1
        }
        may[layer, layer] = 1
      }
      for (k in known) for (i in known) for (j in known)
        if ((i, k) in may && (k, j) in may) may[i, j] = 1
      delete may["model", "comm"]  # a layer of the model knows regions and dispatchers, not ranks
    }
    {
      split($1, path, "/"); from = path[2]
      if (split($4, target, "/") < 2) { print $1 ":" $2 ": \"" $4 "\": name the folder"; next }
      to = target[1]
      if (to == "test" && ($1 ~ /_(test\.cc|test\.h|fuzz\.cc)$/ || from == "bench")) next
      if (!(from in known)) print $1 ":" $2 ": src/" from " is not in src/CMakeLists.txt"
      else if (!((from, to) in may)) print $1 ":" $2 ": " from " may not include " to
    }' | report
}

# fmt, which nvcc cannot compile, stays out of every header that a .cu file can reach: headers that
# include it say ".cc files only" in their first lines, and only .cc files and their like use them.
check_fmt() {
  local header marked=()
  for header in $(files 'src/*.h'); do
    head -n 12 "$header" | grep -q '\.cc files only' && marked+=("${header#src/}")
  done
  local pattern
  pattern=$(IFS='|'; echo "fmt/|${marked[*]}")
  files 'src/base/*.h' 'src/tensor/*.h' 'src/device/*.h' 'src/ops/*.h' 'src/*.cu' 'src/*.cuh' |
    grep -vxF "$(printf 'src/%s\n' "${marked[@]}")" |
    xargs grep -HnE "#include [\"<]($pattern)" |
    sed 's/:#include.*/: a header without ".cc files only" (or a .cu file) may not reach fmt/' | report
}

check_sizes() {
  files 'src/*' 'cmake/*' 'scripts/*' 'CMakeLists.txt' 'Makefile' | grep -v '\.inc$' |
    xargs wc -l | awk '$2 != "total" && $1 > 600 { print $2 ":1: " $1 " lines, 600 at most" }' |
    report
}

# Comments, which clang-format leaves as they are (ReflowComments): 100 columns, and no line whose
# last word was pushed into a line of its own before others of the same item. Tables and formulas
# lose their columns that way.
check_comments() {
  sources | LC_ALL=C xargs awk '
    FNR == 1 { before = word = "" }
    {
      comment = ($0 ~ /^ *\/\/ *[^ ]/)
      match($0, /^ *\/\/ */)
      indent = RLENGTH
      if (word != "" && comment && indent >= word_indent)
        print FILENAME ":" FNR - 1 ": a comment line of one word between others: fill the lines"
      word = ""
      if (comment && before != "" && NF == 2 && length(before) + 1 + length($2) > 100) {
        word = $2
        word_indent = indent
      }
      before = comment ? $0 : ""
      columns = $0
      gsub(/[\200-\277]/, "", columns)
      if (columns ~ /\/\// && length(columns) > 100)
        print FILENAME ":" FNR ": a comment wider than 100 columns"
    }' | report
}

# What must not be in the sources, with the reason.
forbid() {  # reason, pattern, paths...
  local reason=$1 pattern=$2
  shift 2
  files "$@" | grep -vE '^(third_party/|assets/|tests/golden/|scripts/check\.sh)' |
    xargs -r grep -HnIP "$pattern" | cut -d: -f1,2 | sed "s|\$|: $reason|" | report
}

check_words() {
  forbid "a path of one machine" '(/work/|/home/\w|/root/|\.\./shared)' '*'
  forbid "an unfinished note" '\b(TODO|FIXME|XXX)\b' 'src/*' 'cmake/*' 'scripts/*'
  forbid "an issue number: say why instead" '\b[Ii]ssue #?\d' 'src/*' 'docs/*' '*.md'
  forbid "only main.cc ends the program" '(?<![\w.>_])(std::)?(exit|abort|quick_exit)\(' \
    'src/*.cc' ':!src/cli/main.cc' ':!src/*_test.cc'
  forbid "g++ 12 has no <format>" '#include <format>' 'src/*'
  forbid "includes are written from src/" '#include "\.' 'src/*'
  forbid "threads are the pool's: no OpenMP" '#\s*pragma omp' 'src/*'
  forbid "random numbers are Philox's" '\b(std::mt19937|std::random_device|s?rand)\b' \
    'src/*.cc' 'src/*.h' ':!src/*_test.cc'
  forbid "the only global is the logger" '^(static|thread_local) (?!.*(\(|constexpr|const ))' \
    'src/*.cc'
}

run_tidy() {
  local tool list
  tool=$(clang_tool clang-tidy)
  if [[ -z $tool ]]; then
    echo "error: no clang-tidy 14; scripts/bootstrap.sh check installs it" >&2
    exit 2
  fi
  cmake --preset tidy >/dev/null
  if [[ $# -gt 0 ]]; then
    list=$(printf '%s\n' "$@" | grep '\.cc$')
  else
    list=$(files 'src/*.cc')
  fi
  xargs -P "$(nproc)" -n 1 "$tool" -p build-tidy --quiet <<<"$list" 2>/dev/null |
    grep -E '(warning|error):' | sort -u | report
}

case ${1:-} in
  "")
    check_format
    check_layers
    check_fmt
    check_sizes
    check_comments
    check_words
    ;;
  --tidy)
    shift
    run_tidy "$@"
    ;;
  --format)
    sources | xargs "$(clang_tool clang-format)" -i
    exit
    ;;
  *)
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
if [[ $failures -gt 0 ]]; then
  echo "check: $failures violations"
  exit 1
fi
echo "check: $(sources | wc -l) sources, no violation"
