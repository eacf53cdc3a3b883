#!/usr/bin/env bash
# The manual pages and the completions that fstq writes from its tables: they parse, have every
# parameter, and complete what is known.
set -u
. "$(dirname "$0")/../tap.bash"
: "${FSTQ:?}"
dir=$(mktemp -d "${TMPDIR:-/tmp}/fstq-manual.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1

for what in man man5 bash zsh; do
    "$FSTQ" help --$what >$what 2>err
    check "help --$what: status 0" equal "$?" 0
done
"$FSTQ" help --fish >out 2>err
check "another word: status 2" equal "$?" 2

"$FSTQ" list options | sed -n 's/^  \([a-z]*\.[a-z0-9_]*\) = .*/\1/p' >keys
check "there are parameters" test "$(wc -l <keys)" -gt 100
check "each is in the manual" equal \
    "$(sed -n 's/^\.B "\([a-z]*\.[a-z0-9_]*\) = .*/\1/p' man5 | sort)" "$(sort keys)"
check "so is each command" equal "$(sed -n 's/^\.SS fstq \([a-z]*\) .*/\1/p' man | sort)" \
    "$("$FSTQ" --help | sed -n 's/^  \([a-z][a-z]*\)  *[^ ].*/\1/p' |
        grep -vx 'help\|fstq' | sort)"
requests='^\.(TH|ad|SH|SS|PP|nf|fi|TP|B |BR|I |br)'
for page in man man5; do
    check "$page: no request but these" equal \
        "$(grep '^[.'"'"']' $page | cut -c 1-3 | grep -vE "$requests")" ""
    if command -v groff >/dev/null; then
        check "$page: roff has nothing to say" equal "$(groff -man -Tascii -ww -z $page 2>&1)" ""
    else
        skip "$page: roff has nothing to say" "no groff"
    fi
done
if command -v groff >/dev/null; then
    groff -man -Tascii -P-c man >text
    check "options keep their hyphens, help its lines" contains text "  --from-peft DIR"
else
    skip "options keep their hyphens" "no groff"
fi

check "bash: syntax" bash -n bash
# What bash offers behind a line, cut into words as its default says or not at '='.
offers() # line
{
    bash -c '. ./bash
        COMP_LINE=$1 COMP_POINT=${#1}
        read -ra COMP_WORDS <<<"${1//=/ = }"
        case $1 in *" ") COMP_WORDS+=("") ;; esac
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        [ -z "${2-}" ] || COMP_WORDBREAKS=$2
        _fstq 2>/dev/null
        echo "${COMPREPLY[@]}"' offers "$@"
}
check "a command" equal "$(offers "fstq comp")" compare
check "a parameter" equal "$(offers "fstq run x.ini fed.rou")" fed.rounds=
check "a value" equal "$(offers "fstq run x.ini net.pace=re")" real
check "a value where words are not cut at '='" equal "$(offers "fstq run net.pace=re" " ")" \
    net.pace=real
check "a switch" equal "$(offers "fstq run run.resume=")" "on off"
check "an option of a command" equal "$(offers "fstq show a.h5 --cli")" --clients
check "not one of another command" equal "$(offers "fstq run --cli")" ""
check "behind the launcher" equal "$(offers "fstq-run -np 3 run compare.tar")" compare.targets=
touch quick.ini
check "a list" equal "$(offers "fstq list sch")" schemes
check "a benchmark's parameter" equal "$(offers "fstq bench memcpy.mi")" memcpy.min_bytes=
check "a file" equal "$(offers "fstq run qui")" quick.ini

if command -v zsh >/dev/null; then
    check "zsh: syntax" zsh -n zsh
    check "zsh: the same words" equal "$(zsh -fc 'compdef() { :; }; . ./zsh; _fstq_words keys')" \
        "$(bash -c 'complete() { :; }; . ./bash; _fstq_words keys')"
    mkdir -p autoload && cp zsh autoload/_fstq
    check "zsh: the first time it is asked, too" contains <(zsh -fc 'fpath=($PWD/autoload)
        autoload -U _fstq; words=(fstq comp) CURRENT=2 PREFIX=comp
        compadd() { print -r -- "$@" }
        _fstq') "run compare show"
else
    skip "zsh: syntax" "no zsh"
fi
finish
