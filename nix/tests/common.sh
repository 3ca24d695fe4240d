# shellcheck shell=bash
# What the scripts of this directory share. Sourced, never run.

tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034 # used by the scripts that source this
repository=$(cd "$tests/../.." && pwd)

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# The tree that the systemd host of the tests is made of. Its programs run through its own loader.
tree=${TEST_HOST_DIR:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/glovebox/host-trixie}

# from_tree PROGRAM: the words of a command that runs this program of the tree, one per line; nothing if it has none.
from_tree() {
    local loader libraries
    for loader in "$tree"/lib64/ld-linux-*.so.* "$tree"/lib/ld-linux-*.so.*; do
        [[ -x $loader && -x $tree/usr/bin/$1 ]] || continue
        libraries=$(echo "$tree"/usr/lib/*-linux-gnu)
        printf '%s\n' "$loader" --library-path "$libraries:$libraries/systemd" --argv0 "$1" "$tree/usr/bin/$1"
        return
    done
}

# find_systemd PROGRAM: the words of a command that runs this program of systemd, this machine's or that of the host's tree.
find_systemd() {
    if command -v "$1" >/dev/null; then echo "$1"; else from_tree "$1"; fi
}

# own_run: the words of a command that runs another one with a /run/systemd that it may write to, one per line: systemd-analyze
# makes its files there. `env` where there is one; nothing where none can be made, as in a build's sandbox without bubblewrap.
own_run() {
    local entry
    if [[ -w /run/systemd || ($EUID == 0 && -w /run) ]]; then
        echo env
        return
    fi
    command -v bwrap >/dev/null || return 0
    echo bwrap
    # The root directory is not to be written to either, so its entries are taken one by one.
    for entry in /*; do
        case $entry in
            /run) ;;
            *) if [[ -L $entry ]]; then
                printf '%s\n' --symlink "$(readlink "$entry")" "$entry"
            else
                printf '%s\n' --dev-bind "$entry" "$entry"
            fi ;;
        esac
    done
    printf '%s\n' --dir /run/systemd --
}

# Every nix-instantiate of this machine, one per line, as a command; each was tried.
find_nix() {
    if command -v nix-instantiate >/dev/null; then
        nix=(nix-instantiate)
        works && echo "${nix[@]@Q}"
    fi
    mapfile -t nix < <(from_tree nix-instantiate)
    if ((${#nix[@]})) && works; then echo "${nix[@]@Q}"; fi
}

# use_nix COMMAND: makes the command, as find_nix printed it, the one that `evaluate` uses.
use_nix() {
    eval "nix=($1)"
}

works() {
    [[ $(evaluate --expr '1 + 1' 2>/dev/null) == 2 ]]
}

# Nothing is built or fetched, and no store is there: `dummy://` has none. The state directory is only looked at.
evaluate() {
    instantiate --eval --strict --json "$@"
}

# The machine's own Nix, its settings and its store have no part in this.
instantiate() {
    local state=${TMPDIR:-/tmp}/glovebox-nix-$EUID
    NIX_STATE_DIR=$state NIX_CONF_DIR=$state "${nix[@]}" --store dummy:// "$@"
}

# write_files DIR < OUTPUT: what `evaluate` printed is one text with all files, each behind a line that names it.
write_files() {
    local dir=$1 json line file=/dev/null
    read -r json
    [[ $json == \"*\" ]] || return 1
    # printf knows the escapes of a JSON string, but for this one.
    json=${json//\\\"/\"}
    while IFS= read -r line; do
        case $line in
            '=> '*)
                file=$dir/${line#=> }
                mkdir -p "$(dirname "$file")"
                : >"$file"
                ;;
            *) printf '%s\n' "$line" >>"$file" ;;
        esac
    done < <(printf '%b' "${json:1:-1}")
}
