#!/bin/sh
# Stops the service "bzzz" and removes it from systemd. The program, the configuration, the state and
# the user remain; ./install-service.sh brings the same node back.
#
#   sudo ./uninstall-service.sh [--purge]
#
#   --purge   remove all of that too. The node's key goes with the state: others will not know this
#             machine again
#
# It may be interrupted at any time, and run again.
#
# Exit code: 0 done; 1 failed; 2 the command line is wrong.
set -eu
PATH=$PATH:/usr/sbin:/sbin

root=/opt/bzzz
state=/var/lib/bzzz
unit=/etc/systemd/system/bzzz.service
command=/usr/local/bin/bzzz
lock=/run/bzzz-install.lock

say() { echo "uninstall-service: $*" >&2; }

purge=
for each; do
    case $each in
    -h | --help)
        sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
        exit
        ;;
    --purge) purge=yes ;;
    *)
        say "unknown argument '$each'; see --help"
        exit 2
        ;;
    esac
done

if [ "$(id -u)" -ne 0 ]; then
    say "only root can remove a service: run  sudo $0"
    exit 1
fi

(umask 077 && : >>"$lock")
exec 9>"$lock"
flock -n 9 || {
    say "another run installs or removes the service at this moment"
    exit 1
}

# Where systemd does not run, as in an image that is being made, there are only the files.
quietly() { [ ! -d /run/systemd/system ] || systemctl --quiet "$@" 2>/dev/null; }

recorded() { grep -qxF "$1 $2" "$root/manifest" 2>/dev/null; }

# A unit of that name may be another program's.
unit_is_ours() { recorded f "$unit" || grep -q "^ExecStart=$root/current/" "$unit" 2>/dev/null; }

remove_service() {
    if { [ -e "$unit" ] || [ -L "$unit" ]; } && ! unit_is_ours; then
        say "$unit is of another program, and is left as it is"
        return
    fi
    if quietly is-active bzzz.service; then say "stopping the node"; fi
    # Also where the file is gone but the node still runs; fails if there is none.
    quietly stop bzzz.service || :
    quietly disable bzzz.service || :
    # The next installation looks there for the user.
    [ ! -e "$unit" ] || [ ! -d "$root" ] || cp "$unit" "$root/bzzz.service"
    rm -f "$unit" /etc/systemd/system/multi-user.target.wants/bzzz.service
    if [ -n "$purge" ]; then
        # Of `systemctl edit` and `systemctl set-property`.
        rm -rf "$unit.d" /etc/systemd/system.control/bzzz.service.d
    fi
    quietly daemon-reload || :
    # Fails if systemd has forgotten it already, which is what is wanted.
    quietly reset-failed bzzz.service || :
}

# The systemd of the user was there for the tasks, unless it had one before.
lingering() {
    if [ -e "$root/manifest" ]; then
        sed -n 's/^l //p' "$root/manifest"
    elif user_is_ours; then
        echo bzzz
    fi
}

end_linger() {
    lingering | while read -r user; do
        number=$(id -u "$user" 2>/dev/null) || continue
        ! command -v loginctl >/dev/null || loginctl disable-linger "$user" 2>/dev/null || :
        rm -f "/var/lib/systemd/linger/$user"
        # At once, as the user may be removed next. That of a person ends with their last session.
        [ "$user" != bzzz ] || quietly stop "user@$number.service" || :
    done
    [ ! -e "$root/manifest" ] || sed -i '/^l /d' "$root/manifest"
}

# What the manifest says; without one, what an installation would have made.
files() {
    if [ -e "$root/manifest" ]; then
        sed -n 's/^f //p' "$root/manifest"
        return
    fi
    cat <<END
/usr/local/share/bash-completion/completions/bzzz
/usr/local/share/zsh/site-functions/_bzzz
/usr/local/share/fish/vendor_completions.d/bzzz.fish
/usr/local/share/man/man1/bzzz.1
/usr/local/share/man/man5/bzzz.toml.5
/usr/local/share/man/man8/bzzz.service.8
/etc/ufw/applications.d/bzzz
/etc/firewalld/services/bzzz.xml
END
}

# Whether the user was made by the installer.
user_is_ours() {
    if [ -e "$root/manifest" ]; then
        recorded u bzzz
    else
        case $(getent passwd bzzz) in
        *":$state:/usr/sbin/nologin") ;;
        *) return 1 ;;
        esac
    fi
}

remove_rest() {
    files | while read -r path; do
        [ "$path" = "$unit" ] || [ "$path" = "$command" ] || rm -f "$path"
    done
    case $(readlink "$command") in
    "$root"/*) rm -f "$command" ;;
    esac
    rm -rf /etc/bzzz "$state"
    if user_is_ours && getent passwd bzzz >/dev/null; then
        userdel bzzz
        # Which leaves a group that has members.
        if { [ ! -e "$root/manifest" ] || recorded g bzzz; } && getent group bzzz >/dev/null; then
            groupdel bzzz
        fi
    fi
    if [ -e "$root/manifest" ]; then
        # Directories that others use by now are not empty. The last made is in the one before.
        sed -n 's/^d //p' "$root/manifest" | sort -r | while read -r path; do
            [ ! -d "$path" ] || rmdir --ignore-fail-on-non-empty "$path"
        done
    fi
    # The manifest last: it is what a run after an interrupted one goes by.
    find "$root" -mindepth 1 -maxdepth 1 ! -name manifest -exec rm -rf {} + 2>/dev/null || :
    rm -rf "$root"
    rm -f "$lock"
}

if [ ! -e "$unit" ] && [ ! -L "$unit" ] && [ ! -e "$root" ] && [ ! -e "$state" ]; then
    say "nothing of Bzzz is installed"
fi
remove_service
end_linger
if [ -n "$purge" ]; then
    remove_rest
    say "nothing of Bzzz is left"
else
    say "the service is removed"
    for each in "$root" /etc/bzzz "$state"; do
        [ ! -e "$each" ] || say "$each remains; --purge removes it"
    done
fi
