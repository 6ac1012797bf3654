# mounts.sh STATE PROGRAM [ARGUMENT…]: mounts what the lines "ro|rw DIRECTORY MOUNT-PATH" of STATE/mounts say, makes
# the file STATE/started and becomes the program. It must run in a mount namespace of its own. No path in it may have spaces.
set -eu
state=$1
shift
covered=

# Makes the directory $1 without a change to the file system: the nearest directory above it is covered with a tmpfs of links
# to what was there.
make_directory() {
    if [ -d "$1" ]; then return; fi
    above=$1
    while [ ! -d "$above" ]; do above=$(dirname "$above"); done
    above=$(readlink -f "$above")
    for ours in $covered; do
        case $above/ in "$ours"/*) mkdir -p "$1"; return ;; esac
    done
    case $above:$state/ in
    /:* | "$above:$above"/*) echo "cannot make $1: $above cannot be covered; choose another mountPath" >&2; exit 1 ;;
    esac
    stash=$state/stash$above
    mkdir -p "$stash"
    mount --rbind "$above" "$stash"
    mount -t tmpfs -o mode=0755 tmpfs "$above"
    covered="$covered $above"
    for entry in "$stash"/* "$stash"/.[!.]*; do
        # A relative link would lead elsewhere from the stash.
        if [ -L "$entry" ]; then cp -P "$entry" "$above/"; elif [ -e "$entry" ]; then ln -s "$entry" "$above/"; fi
    done
    mkdir -p "$1"
}

while read -r mode directory path; do
    make_directory "$path"
    mount --bind "$directory" "$path"
    # Refused where the file system has flags that a user namespace may not change; then it stays writable.
    if [ "$mode" = ro ]; then mount -o remount,bind,ro "$path" 2>/dev/null || :; fi
done <"$state/mounts"
cd /
: >"$state/started"
exec "$@"
