# shellcheck shell=bash
# What the scripts of this directory share. Sourced, never run.

# What the host's tree is made of.
suite=trixie
base_packages=systemd,systemd-sysv,dbus,ca-certificates
packages=(postgresql-17 restic pgbackrest nix-bin man-db mandoc)
stamp=etc/glovebox-host

# The version whose regression tests are taken: that of the newest server that Debian releases.
regress_major=18

# use_tree NAME: `host`, `regress`, or the major version of PostgreSQL that the tree holds. A finished tree lives outside the
# checkout: it is large, belongs to root and outlives a clone. Another recipe than the one that a tree was built from
# means: build it again.
use_tree() {
    tree=${TEST_HOST_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/glovebox/host-trixie}
    recipe="$suite $base_packages ${packages[*]} 1"
    if [[ $1 == regress ]]; then
        tree=$(dirname "$tree")/regress
        recipe="regress $regress_major 1"
    elif [[ $1 != host ]]; then
        [[ $1 =~ ^[0-9]+$ ]] || die "no such tree: $1"
        tree=$(dirname "$tree")/postgresql-$1
        recipe="postgresql-$1 1"
    fi
}

# use_server MAJOR: the tree with that PostgreSQL.
use_server() {
    if [[ $1 == 17 ]]; then use_tree host; else use_tree "$1"; fi
}

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

need_root() {
    ((EUID == 0)) || die "needs root: it mounts, changes its root directory and boots a container"
}

# The tree as it is used: whole, and from this recipe.
tree_is_whole() {
    [[ -f $tree/$stamp && $(<"$tree/$stamp") == "$recipe" ]]
}

need_tree() {
    tree_is_whole || die "no tree in $tree: make it with tests/host/build"
}

now_ms() {
    echo $((${EPOCHREALTIME/[^0-9]/} / 1000))
}

# seconds FROM_MS: the time since then, "2.6 s".
seconds() {
    local ms=$(($(now_ms) - $1))
    printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100))
}

# runs PID COMM: whether that process is still the one we started. A recycled id must never be signalled, and a zombie
# that waits for a slow init to collect it runs no more.
runs() {
    local stat
    [[ -n $1 ]] && read -r stat 2>/dev/null <"/proc/$1/stat" && [[ $stat == "$1 ($2) "[!ZX]* ]]
}

# wait_gone PID COMM SECONDS: fails if the process is still there after that time.
wait_gone() {
    local limit=$(($(now_ms) + $3 * 1000))
    while runs "$1" "$2"; do
        (($(now_ms) < limit)) || return 1
        sleep 0.05
    done
}

# pid_in FILE: the process id in a file, empty if there is none.
pid_in() {
    local pid=
    [[ -s $1 ]] && read -r pid <"$1"
    echo "$pid"
}

# watch_owner PID DIR COMMAND…: runs COMMAND once that process is gone, so that a killed test leaves nothing running.
# All streams are closed: whoever reads the output of `start` must not wait for this.
watch_owner() {
    local owner=$1 dir=$2
    shift 2
    (
        while [[ -d /proc/$owner ]]; do sleep 0.5; done
        rm -f "$dir/watcher.pid"
        "$@"
    ) </dev/null >/dev/null 2>&1 &
    echo $! >"$dir/watcher.pid"
}

# unwatch DIR: ends the watcher of a host or server that is stopped in an orderly way.
unwatch() {
    local pid
    pid=$(pid_in "$1/watcher.pid")
    if runs "$pid" bash; then kill "$pid" 2>/dev/null || true; fi
    rm -f "$1/watcher.pid"
}

use_tree host
