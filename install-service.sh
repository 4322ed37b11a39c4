#!/bin/sh
# Installs Bzzz from this directory as the systemd service "bzzz", or upgrades the one installed.
#
#   sudo ./install-service.sh [--user NAME] [--wheelhouse DIR] [--join-file FILE] [--dry-run]
#
#   --user NAME       run the node as this user, who must exist; root may not. Without it as the
#                     user it runs as already, at first as "bzzz", who is made
#   --wheelhouse DIR  take the dependencies from DIR, which script/wheelhouse makes, and nothing
#                     from a package index
#   --join-file FILE  when the node runs, have it join a cluster, with the token in FILE: what
#                     bzzz invite --token printed on a machine there. A machine that is a member of
#                     one already is left alone
#   --join TOKEN      the same, with the token itself. Others on this machine may see it in the list
#                     of processes for a moment, and for as long as this runs where sudo starts it;
#                     the history of a shell keeps it. FILE, or BZZZ_JOIN_TOKEN, is better
#   --dry-run         print each step that would change something, in order, and change nothing
#
# PYTHON names the interpreter to use, if it is not to be the first that fits. BZZZ_JOIN_TOKEN may
# have the token, in place of --join-file.
#
# Running it again upgrades: the new version is built beside the old and has to accept the
# configuration before the old one is stopped. If it does not answer within 30 s the old one is
# started again. State, identity and configuration stay as they are. With nothing new, only what is
# not as it should be is mended, and a node that runs is left alone. It may be interrupted at any
# time. docs/systemd.rst has the places of everything.
#
# Exit code: 0 the node runs and answers, and is in a cluster if that was asked for; 1 it failed, and
# says what is as it was; 2 the command line is wrong.
set -eu
umask 022

say() { echo "install-service: $*" >&2; }

# A token on the command line is for all to see, so before anything else this goes on without it
# there. Nothing but what the shell has built in may run before.
left=$#
given=
by_file=
while [ "$left" -gt 0 ]; do
    case $1 in
    --join=?*) given=${1#--join=} ;;
    --join)
        # Where nothing follows, what is said of that comes below.
        if [ "$left" -gt 1 ] && [ -n "$2" ]; then
            given=$2
            shift
            left=$((left - 1))
        else
            set -- "$@" "$1"
        fi
        ;;
    --join-file | --join-file=*)
        by_file=yes
        set -- "$@" "$1"
        ;;
    *) set -- "$@" "$1" ;;
    esac
    shift
    left=$((left - 1))
done
if [ -n "$given" ]; then
    if [ -n "$by_file" ]; then
        say "give --join or --join-file, not both"
        exit 2
    fi
    say "others may have seen the token on the command line: --join-file is better, see --help"
    export BZZZ_JOIN_TOKEN="$given"
    exec sh "$0" "$@"
fi

# What is run from here has no token in its environment.
token=${BZZZ_JOIN_TOKEN:-}
unset BZZZ_JOIN_TOKEN
PATH=$PATH:/usr/sbin:/sbin
unset PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER

root=/opt/bzzz
config=/etc/bzzz/bzzz.toml
unit=/etc/systemd/system/bzzz.service
command=/usr/local/bin/bzzz
lock=/run/bzzz-install.lock

# Seconds for a node to answer after its start.
patience=30

# What setup.py and the functions below read. A change in it makes an upgrade.
inputs="bzzz twisted etc setup.py pyproject.toml README.rst LICENSE requirements/run.txt
    uninstall-service.sh"

fail() {
    say "$*"
    exit 1
}

source=$(cd "$(dirname "$0")" && pwd)
dry=
user=
wheelhouse=
token_file=
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        sed -n '2,/^set/s/^# \{0,1\}//p' "$source/install-service.sh"
        exit
        ;;
    --dry-run) dry=yes ;;
    --user=* | --wheelhouse=* | --join-file=* | --join=*)
        name=${1%%=*}
        value=${1#*=}
        shift
        # In the place of the two words.
        set -- "$name" "$value" "$@"
        continue
        ;;
    --user | --wheelhouse | --join-file | --join)
        [ -n "${2:-}" ] || {
            say "$1 wants a value; see --help"
            exit 2
        }
        case $1 in
        --user) user=$2 ;;
        --wheelhouse) wheelhouse=$2 ;;
        --join-file) token_file=$2 ;;
        esac
        shift
        ;;
    *)
        say "unknown argument '$1'; see --help"
        exit 2
        ;;
    esac
    shift
done
if [ -n "$token_file" ]; then
    token=$(cat "$token_file" 2>/dev/null) || {
        say "--join-file: $token_file cannot be read"
        exit 2
    }
    [ -n "$token" ] || {
        say "--join-file: $token_file is empty"
        exit 2
    }
fi
if [ -n "$wheelhouse" ]; then
    wheelhouse=$(cd "$wheelhouse" 2>/dev/null && pwd) || {
        say "--wheelhouse: there is no such directory"
        exit 2
    }
fi
cd "$source"

# -- running things

# change WHAT COMMAND...: run it, or say in a dry run that it would be.
change() {
    what=$1
    shift
    if [ -n "$dry" ]; then
        echo "would $what"
    else
        "$@"
    fi
}

# run COMMAND...: for what takes long. The shell sees signals while it waits for it, and ends it
# with all that it started. Its standard input is descriptor 3.
exec 3</dev/null
child=
run() {
    setsid "$@" <&3 3<&- &
    child=$!
    code=0
    wait "$child" || code=$?
    child=
    return "$code"
}

# What an end before the end means: "building" and "switching" have something to undo.
phase=
cut=

# shellcheck disable=SC2317,SC2329 # called by traps
interrupted() {
    cut=yes
    exit 1
}

# shellcheck disable=SC2317,SC2329 # called by a trap
at_exit() {
    code=$?
    # Nothing may stop this, not even a terminal that is gone.
    trap '' INT TERM HUP PIPE
    trap - EXIT
    set +e
    [ -z "$cut" ] || say "interrupted"
    if [ -n "$child" ]; then
        kill -TERM "-$child" 2>/dev/null || kill -TERM "$child" 2>/dev/null
        wait "$child" 2>/dev/null
    fi
    rm -f "${temporary:-}"
    case $phase in
    building)
        rm -rf "$new"
        rmdir "$root/versions" "$root" 2>/dev/null
        if [ -n "$old" ]; then
            say "not done: nothing was changed, ${old%-*} is as it was"
        else
            say "not done: nothing was started"
        fi
        ;;
    switching) undo ;;
    esac
    [ "$code" -eq 0 ] || exit 1
}

# -- what is there, and what is missing

problems=
problem() {
    say "$*"
    problems=yes
}

# Prints the first Python that is new enough, can make a virtual environment, and can be seen by the
# service: the unit hides these directories, or forbids to run anything from them.
find_python() {
    for each in ${PYTHON:-python3 python3.11 python3.12 python3.13 python3.14 /usr/bin/python3}; do
        if "$each" -I -c '
import ensurepip, os, sys, venv
place = os.path.realpath(sys.base_prefix) + "/"
hidden = place.startswith(("/home/", "/root/", "/run/", "/tmp/", "/var/"))
sys.exit(hidden or sys.version_info < (3, 11))
' 2>/dev/null; then
            command -v "$each"
            return
        fi
    done
    return 1
}

# recorded KIND PATH: whether an earlier run made it.
recorded() { grep -qxF "$1 $2" "$root/manifest" 2>/dev/null; }

unit_is_ours() { recorded f "$unit" || grep -q "^ExecStart=$root/current/" "$unit" 2>/dev/null; }

check_machine() {
    if [ "$(id -u)" -ne 0 ] && [ -z "$dry" ]; then
        problem "only root can install a service: run  sudo $0"
    fi
    [ -d /run/systemd/system ] || problem "systemd does not run this machine"
    python=$(find_python) || problem "a Python of 3.11 or newer with venv, outside of home" \
        "directories, is missing: run  apt-get install python3 python3-venv  or name one in PYTHON"
    for pair in systemctl:systemd journalctl:systemd useradd:passwd getent:libc-bin \
        flock:util-linux setsid:util-linux; do
        command -v "${pair%:*}" >/dev/null ||
            problem "${pair%:*} is missing: run  apt-get install ${pair#*:}"
    done
    for each in $inputs; do
        [ -e "$each" ] || problem "$source/$each is missing: get the whole release"
    done
    place=$root
    [ -d "$place" ] || place=/opt
    free=$(df -Pk "$place" 2>/dev/null | awk 'NR == 2 { print $4 }')
    [ "${free:-204800}" -ge 204800 ] || problem "$place has less than 200 MB free"
    if { [ -e "$unit" ] || [ -L "$unit" ]; } && ! unit_is_ours; then
        problem "$unit is of another program: stop that one, disable it and move the file away"
    fi
    if { [ -e "$command" ] || [ -L "$command" ]; } &&
        [ "$(readlink "$command")" != "$root/current/bin/bzzz" ]; then
        problem "$command is of another program: move it away"
    fi
    if [ -n "$wheelhouse" ] && [ ! -e "$wheelhouse/made-for" ]; then
        problem "$wheelhouse is no wheelhouse: script/wheelhouse makes one"
    elif [ -n "$wheelhouse" ] && [ -n "$python" ] && [ -e script/wheelhouse ]; then
        wanted=$(sh script/wheelhouse --made-for "$python")
        [ "$(cat "$wheelhouse/made-for")" = "$wanted" ] ||
            problem "$wheelhouse is for $(cat "$wheelhouse/made-for"), and this is $wanted:" \
                "make it on a machine like this one, from this version"
    fi
}

# Sets user and group. The default is who runs it already.
choose_user() {
    for file in "$unit" "$root/bzzz.service"; do
        [ -n "$user" ] || [ ! -e "$file" ] || user=$(sed -n 's/^User=//p' "$file")
    done
    user=${user:-bzzz}
    group=$user
    if entry=$(getent passwd "$user"); then
        user=${entry%%:*}
        group=$(id -gn "$user")
        [ "$(id -u "$user")" -ne 0 ] || problem "a node must not run as root: name another --user"
    elif [ "$user" != bzzz ]; then
        problem "there is no user $user"
    fi
    case $user$group in
    *[!A-Za-z0-9._-]*) problem "$user:$group cannot be written into a unit: name another --user" ;;
    esac
}

# Sets version, hash, old and new: names of directories in versions/. They are the same if
# what is installed was made of what is here.
choose_version() {
    version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' bzzz/__init__.py)
    # shellcheck disable=SC2086 # a list of names without spaces
    hash=$(find $inputs -type f ! -name '*.pyc' ! -name dropin.cache -print0 | LC_ALL=C sort -z |
        xargs -0 sha256sum | sha256sum | cut -d ' ' -f 1)
    old=$(readlink "$root/current") || old=
    old=${old##*/}
    [ -e "$root/versions/$old/.complete" ] || old=
    # An upgrade of the machine's Python leaves environments without their interpreter.
    if [ -n "$old" ] && [ "$(cat "$root/versions/$old/.hash")" = "$hash" ] &&
        "$root/versions/$old/bin/python" -I -c 'import bzzz' 2>/dev/null; then
        new_name=$old
    else
        number=0
        for each in "$root"/versions/*-[0-9]*; do
            [ -d "$each" ] && [ "${each##*-}" -gt "$number" ] && number=${each##*-}
        done
        new_name=$version-$((number + 1))
    fi
    new=$root/versions/$new_name
}

# -- files outside /opt/bzzz

# record KIND PATH: so that --purge removes it. Always before it is made.
record() { recorded "$1" "$2" || echo "$1 $2" >>"$root/manifest"; }

make_directory() {
    [ ! -d "$1" ] || return 0
    make_directory "$(dirname "$1")"
    change "make the directory $1" make_one_directory "$1"
}

make_one_directory() {
    record d "$1"
    mkdir "$1"
}

# put FILE PATH: the file there, if it is not there yet. What somebody else put there is left.
put() {
    if cmp -s "$1" "$2"; then
        [ -n "$dry" ] || record f "$2"
    elif { [ -e "$2" ] || [ -L "$2" ]; } && ! recorded f "$2"; then
        say "$2 is left: it is not of this program"
    else
        make_directory "$(dirname "$2")"
        change "write $2" write "$1" "$2"
    fi
}

# write FILE PATH: by rename, so that there is always a whole file. "-" is the standard input.
write() {
    record f "$2"
    temporary=$(dirname "$2")/.bzzz-install.new
    rm -f "$temporary"
    cat "$1" >"$temporary"
    mv -fT "$temporary" "$2"
}

# link TARGET PATH: likewise.
link() {
    temporary=$(dirname "$2")/.bzzz-install.new
    ln -sfn "$1" "$temporary"
    mv -fT "$temporary" "$2"
}

link_command() {
    record f "$command"
    link "$root/current/bin/bzzz" "$command"
}

# What is of use beside the service.
put_files() {
    share=$new/share/bzzz
    there=/usr/local/share
    put "$share/bzzz.bash" "$there/bash-completion/completions/bzzz"
    put "$share/_bzzz" "$there/zsh/site-functions/_bzzz"
    put "$share/bzzz.fish" "$there/fish/vendor_completions.d/bzzz.fish"
    put "$share/bzzz.1" "$there/man/man1/bzzz.1"
    put "$share/bzzz.toml.5" "$there/man/man5/bzzz.toml.5"
    put "$share/bzzz.service.8" "$there/man/man8/bzzz.service.8"
    [ ! -d /etc/ufw/applications.d ] || put etc/ufw/bzzz /etc/ufw/applications.d/bzzz
    [ ! -d /etc/firewalld ] || put etc/firewalld/bzzz.xml /etc/firewalld/services/bzzz.xml
    if [ "$(readlink "$command")" != "$root/current/bin/bzzz" ]; then
        make_directory "$(dirname "$command")"
        change "link $command" link_command
    fi
    cmp -s uninstall-service.sh "$root/uninstall-service.sh" ||
        change "write $root/uninstall-service.sh" \
            install -m 755 uninstall-service.sh "$root/uninstall-service.sh"
    # The file is its owner's. A default that has become another is put beside it.
    if cmp -s etc/bzzz.toml "$config"; then
        [ ! -e "$config.new" ] || change "remove $config.new" rm -f "$config.new"
    elif [ -e "$config" ] && ! cmp -s etc/bzzz.toml "$config.new"; then
        change "write $config.new beside the file that is there" write etc/bzzz.toml "$config.new"
    fi
}

# -- building

pip() {
    run env TMPDIR="$new/.tmp" "$new/bin/python" -I -m pip --disable-pip-version-check \
        --no-input --no-cache-dir --quiet "$@"
}

build() {
    say "building $version in $new"
    mkdir -p "$new/.source" "$new/.tmp" "$new/share/bzzz"
    # Copied, because setup.py writes into the directory that it is in.
    # shellcheck disable=SC2086 # a list of names without spaces
    cp -R --parents $inputs "$new/.source"
    run "$python" -I -m venv "$new"
    set --
    [ -z "$wheelhouse" ] || set -- --no-index --find-links "$wheelhouse"
    # What is not a wheel yet is made one without fetching a build environment for it: setuptools is
    # among the locked versions, and has to be there first.
    awk '/^[^ #]/ { wanted = /^setuptools==/ } wanted' requirements/run.txt >"$new/.tmp/first.txt"
    {
        pip install --require-hashes "$@" -r "$new/.tmp/first.txt" &&
            pip install --require-hashes --no-build-isolation --use-pep517 "$@" \
                -r requirements/run.txt
    } || fail "the dependencies cannot be had. Where no package index can be reached," \
        "--wheelhouse takes what script/wheelhouse has got elsewhere"
    pip install --no-index --no-deps --no-build-isolation "$new/.source"
    pip check
    # Made here, because twistd would want to write it at its start, which the service may not.
    run "$new/bin/python" -I -c '
import twisted.plugin, twisted.plugins
assert "bzzz_plugin" in twisted.plugin.getCache(twisted.plugins)'
    share=$new/share/bzzz
    # It tells on standard error that there is no bash, which is no reason not to have the file.
    "$new/bin/bzzz" completion bash >"$share/bzzz.bash" 2>/dev/null
    "$new/bin/bzzz" completion zsh >"$share/_bzzz"
    "$new/bin/bzzz" completion fish >"$share/bzzz.fish"
    "$new/bin/python" -I -m bzzz.cli.man "$share"
    install -m 644 etc/systemd/bzzz.service "$share/bzzz.service"
    rm -rf "$new/.source" "$new/.tmp"
    echo "$hash" >"$new/.hash"
}

check_config() {
    [ -e "$config" ] || return 0
    said=$("$new/bin/bzzz" config check "$config" 2>&1) || {
        echo "$said" >&2
        fail "$version does not accept $config: mend it, and run this again"
    }
}

see_to_user() {
    case $(getent passwd bzzz) in
    '') change "make the system user bzzz" make_user ;;
    # Made by an installation, of which the manifest may be lost.
    *:/var/lib/bzzz:/usr/sbin/nologin) [ -n "$dry" ] || record u bzzz ;;
    esac
}

make_user() {
    record u bzzz
    if getent group bzzz >/dev/null; then
        set -- --gid bzzz
    else
        set -- --user-group
        record g bzzz
    fi
    useradd --system "$@" --home-dir /var/lib/bzzz --no-create-home --shell /usr/sbin/nologin bzzz
}

# The systemd of the user, which runs the tasks: from boot on, whether somebody is logged in or not.
lingers() { [ -e "/var/lib/systemd/linger/$user" ]; }

see_to_linger() {
    [ -e /usr/lib/systemd/user/dbus.socket ] || [ -e /lib/systemd/user/dbus.socket ] ||
        say "tasks have no sandbox of their own: the package dbus-user-session is missing"
    lingers || change "have a systemd run for $user from boot on" enable_linger
}

enable_linger() {
    record l "$user"
    if [ ! -d /var/lib/systemd/linger ]; then record d /var/lib/systemd/linger; fi
    # The node does without.
    loginctl enable-linger "$user" ||
        say "tasks have no sandbox of their own: loginctl enable-linger $user failed"
}

# From here on it counts. A power cut must not leave the mark without the files.
mark_complete() {
    sync -f "$new"
    : >"$new/.complete"
}

# -- the unit

# The group may use the node. One that is not the user's own has people in it whom nobody meant.
wanted_unit() {
    mode=0750
    [ "$group" = "$user" ] || mode=0700
    # In a dry run the user may not be there yet.
    number=$(id -u "$user" 2>/dev/null) || number=UID
    sed "s/^User=.*/User=$user/; s/^Group=.*/Group=$group/; s/user@UID/user@$number/
        s/^RuntimeDirectoryMode=.*/RuntimeDirectoryMode=$mode/" etc/systemd/bzzz.service
}

without_user() {
    sed '/^User=/d; /^Group=/d; /^RuntimeDirectoryMode=/d; s/user@[0-9]*\.service/user@UID.service/' "$1"
}

write_unit() {
    if [ -e "$unit" ] && [ -n "$old" ] && [ "$(without_user "$unit")" != \
        "$(without_user "$root/versions/$old/share/bzzz/bzzz.service")" ]; then
        say "$unit was edited; what it was is in $root/bzzz.service.edited." \
            "Use systemctl edit bzzz"
        cp "$unit" "$root/bzzz.service.edited"
    fi
    wanted_unit | write - "$unit"
}

quietly() { systemctl --quiet "$@" 2>/dev/null; }

property() { systemctl show --property="$1" --value bzzz.service; }

enable_at_boot() {
    quietly is-enabled bzzz.service ||
        change "enable bzzz.service at boot" systemctl --quiet enable bzzz.service
}

# Where the control socket of a version's node is.
runtime_dir() {
    "$root/versions/$1/bin/python" -I -c '
import sys, bzzz.config
systemd = {"RUNTIME_DIRECTORY": "/run/bzzz"}
print(bzzz.config.load({}, systemd, sys.argv[1]).runtime_dir)' "$config" 2>/dev/null ||
        echo /run/bzzz
}

# comes_up VERSION SECONDS: whether the service answers within them, and is the same process a
# moment later: one that has answered may still have crashed at once.
comes_up() {
    run "$root/versions/$1/bin/bzzz" --runtime-dir "$(runtime_dir "$1")" status --wait "$2" \
        --json >/dev/null 2>&1 || return 1
    pid=$(property MainPID)
    run sleep 2
    [ "$pid" -ne 0 ] && [ "$(property MainPID)" = "$pid" ] && quietly is-active bzzz.service
}

# -- the switch

# From the stop until the new version answers this directory says what to go back to; to the next
# run too, should this one be killed, or the machine go down.
marker=$root/switching

mark() {
    rm -rf "$marker" "$marker.new"
    mkdir "$marker.new"
    if [ -n "$old" ] && [ -e "$unit" ]; then
        cp "$unit" "$marker.new/bzzz.service"
        echo "$old" >"$marker.new/version"
    fi
    case $(property ActiveState) in
    '' | inactive | failed) ;;
    *) : >"$marker.new/was-active" ;;
    esac
    mv -T "$marker.new" "$marker"
}

switch() {
    since=$(now)
    change "note in $marker what to go back to" mark
    [ -n "$dry" ] || phase=switching
    case $(property ActiveState) in
    '' | inactive | failed) ;;
    *) change "stop bzzz.service" systemctl stop bzzz.service ;;
    esac
    since=$(now)
    [ "$new_name" = "$old" ] ||
        change "link $root/current to versions/$new_name" link "versions/$new_name" "$root/current"
    wanted_unit | cmp -s - "$unit" || change "write $unit" write_unit
    change "have systemd read its units" systemctl daemon-reload
    enable_at_boot
    change "start bzzz.service" systemctl start bzzz.service
    [ -z "$dry" ] || return 0
    say "waiting until the node answers"
    comes_up "$new_name" "$patience"
    phase=
    rm -rf "$marker"
}

# Go back to what the marker says, and set back; fails if it says nothing.
go_back() {
    back=$(cat "$marker/version" 2>/dev/null) || back=
    if [ -z "$back" ] || [ ! -e "$root/versions/$back/.complete" ]; then
        rm -rf "$marker"
        return 1
    fi
    quietly stop bzzz.service || :
    link "versions/$back" "$root/current"
    write "$marker/bzzz.service" "$unit"
    systemctl daemon-reload
    if [ ! -e "$marker/was-active" ]; then
        say "${back%-*} is back as it was: it did not run"
    elif systemctl start bzzz.service && comes_up "$back" "$patience"; then
        say "${back%-*} is back as it was, and runs again"
    else
        say "${back%-*} is back as it was, but does not answer: see  journalctl -u bzzz -n 50"
    fi
    rm -rf "$marker"
}

# For journalctl; in one second the old version can stop and the new one fail.
now() { date +%s.%N; }

show_journal() { journalctl --unit=bzzz.service --no-pager --lines=30 --since="@$since" >&2; }

# shellcheck disable=SC2317,SC2329 # called by a trap
undo() {
    if [ -z "$cut" ]; then
        say "$version does not come up, or does not stay up. What it said:"
        show_journal
    fi
    if go_back; then
        [ "$new_name" = "$back" ] || rm -rf "$new"
    elif [ -n "$cut" ]; then
        say "$version is installed and enabled, but was not waited for: run this again"
    else
        say "there is nothing to go back to: $version is installed and enabled, and systemd" \
            "starts it every 10 s until it stays."
        say "Mend what is wrong and run this again, or remove it: ./uninstall-service.sh"
    fi
}

# What a run that was killed has left.
recover() {
    if [ -d "$marker" ]; then
        current=$(readlink "$root/current") || current=
        if [ -n "$current" ] && comes_up "${current##*/}" 1; then
            rm -rf "$marker"
        else
            say "an earlier run was cut off in the middle: going back"
            go_back || :
        fi
    fi
    rm -rf "$marker.new"
    for each in "$root"/versions/*; do
        [ ! -d "$each" ] || [ -e "$each/.complete" ] || rm -rf "$each"
    done
}

# The version before is kept, those before it are not.
remove_older() {
    for each in "$root"/versions/*; do
        case ${each##*/} in
        "$new_name" | "$old" | '*') ;;
        *) change "remove $each" rm -rf "$each" ;;
        esac
    done
}

# -- the cluster

# Prints "member" or "revoked" and the cluster that the node is in; nothing where it is in none.
membership() {
    shown=$("$new/bin/bzzz" --runtime-dir "$1" cluster show --json) || return 1
    echo "$shown" | "$new/bin/python" -I -c '
import json, sys
cluster = json.load(sys.stdin)["cluster"]
if cluster is not None:
    print("revoked" if cluster["revoked"] else "member", cluster["name"])'
}

join_cluster() {
    directory=$(runtime_dir "$new_name")
    already=$(membership "$directory") || fail "the service runs, but cannot be asked which" \
        "cluster it is in: run this again"
    case $already in
    '') ;;
    member*)
        say "this machine is a member of ${already#member } already: it stays as it is"
        return
        ;;
    *)
        fail "the service runs, but it has not joined: this machine was revoked from" \
            "${already#revoked }. Run  bzzz leave  and then this again"
        ;;
    esac
    # By a pipe: what is an argument is in the list of processes.
    exec 3<<END
$token
END
    run "$new/bin/bzzz" --runtime-dir "$directory" join - || fail "the service is installed and" \
        "runs, but it is in no cluster. Mend what is said above, and run this again, or  bzzz join" \
        "with another token, or with the code of  bzzz invite"
    exec 3</dev/null
}

# -- all of it

# Nothing new: see to it that what is there is as it should be.
keep() {
    since=$(now)
    enable_at_boot
    quietly is-active bzzz.service || change "start bzzz.service" systemctl start bzzz.service
    [ -z "$dry" ] || return 0
    comes_up "$new_name" "$patience" || {
        say "it does not answer. What it said:"
        show_journal
        fail "mend what is wrong and run this again; if runtime_dir was changed while it runs:" \
            "systemctl restart bzzz"
    }
}

show_result() {
    systemctl --no-pager --lines=5 status bzzz.service || :
    echo
    "$new/bin/bzzz" --runtime-dir "$(runtime_dir "$new_name")" id || :
    cat <<END

Bzzz $version runs as the user $user, and will when the machine starts. Next:
  sudo bzzz peers             who else is there
  sudo bzzz doctor            why somebody is not
  sudo bzzz cluster show      which cluster it is in, or how it gets into one
  journalctl -u bzzz -f       what it does
  sudo systemctl reload bzzz  after a change of $config
END
    [ "$group" != "$user" ] ||
        echo "  sudo usermod -aG $group USER  lets USER do it without sudo, from the next login on"
    if grep -q '^ENABLED=yes' /etc/ufw/ufw.conf 2>/dev/null; then
        echo "  sudo ufw allow Bzzz         lets the others through this machine's firewall"
    fi
    if quietly is-active firewalld.service; then
        echo "  sudo firewall-cmd --reload && sudo firewall-cmd --permanent --add-service=bzzz &&" \
            "sudo firewall-cmd --reload"
    fi
    echo "  sudo $root/uninstall-service.sh"
}

main() {
    check_machine
    choose_user
    if [ -z "$dry" ]; then
        [ -z "$problems" ] || fail "nothing was changed"
        # Nobody else may open it, and with that hold it.
        (umask 077 && : >>"$lock")
        exec 9>"$lock"
        flock -n 9 || fail "another run installs or removes the service at this moment"
        trap at_exit EXIT
        trap interrupted INT TERM HUP PIPE
        recover
    fi
    choose_version
    if [ "$new_name" = "$old" ]; then
        say "$version is installed already, of the same sources"
    else
        [ -n "$dry" ] || phase=building
        change "build $version in $new" build
    fi
    [ -n "$dry" ] || check_config
    [ "$user" != bzzz ] || see_to_user
    see_to_linger
    make_directory "$(dirname "$config")"
    [ -e "$config" ] || change "write $config" write etc/bzzz.toml "$config"
    if [ "$new_name" = "$old" ] && wanted_unit | cmp -s - "$unit"; then
        put_files
        keep
    elif [ -n "$old" ]; then
        [ -n "$dry" ] || mark_complete
        switch
        put_files
        [ "$new_name" = "$old" ] || remove_older
    else
        [ -n "$dry" ] || mark_complete
        put_files
        switch
        remove_older
    fi
    [ -n "$dry" ] || show_result
    [ -z "$token" ] || change "have the node join a cluster, unless it is in one" join_cluster
    [ -z "$problems" ] || exit 1
}

main
