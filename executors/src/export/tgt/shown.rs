//! What `tgtadm --op show --mode target` prints, and what it means for an export. Pure.

use std::collections::BTreeSet;
use std::net::SocketAddr;

/// The LUN of every export. LUN 0 is the controller.
pub const LUN: u32 = 1;

/// How far a size in tgt's rounded megabytes may be from the true one. Volumes differ by whole GiB.
const SIZE_TOLERANCE_BYTES: u64 = 100_000_000;

/// The logical unit of an export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// Where its data is.
    pub path: String,
    /// Its size in megabytes of 10^6 bytes, rounded.
    pub size_mb: u64,
    /// Whether writing is refused.
    pub readonly: bool,
}

/// A target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// tgt's number for it.
    pub tid: u32,
    /// Its iSCSI name.
    pub name: String,
    /// Whether it takes no commands and no logins, for a moment.
    pub is_offline: bool,
    /// The export's unit, if it is there.
    pub unit: Option<Unit>,
    /// Users that may log in.
    pub accounts: BTreeSet<String>,
    /// Initiators' names and addresses that may connect.
    pub allowed: BTreeSet<String>,
}

/// What a target should be.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Where the data is.
    pub path: &'a str,
    /// Its present length.
    pub bytes: u64,
    /// Whether writing is refused.
    pub readonly: bool,
    /// The user.
    pub account: &'a str,
    /// The initiator's name or address, or `ALL`.
    pub allowed: &'a str,
}

/// What is to be done about a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It is as it should be.
    Nothing,
    /// It is not there.
    Create,
    /// All is well but the size that it shows, or making that right was interrupted.
    Reopen,
    /// It is for somebody else, or half made.
    Rebuild,
}

/// Compares what is there with what should be.
pub fn plan(found: Option<&Target>, wanted: &Wanted<'_>) -> Plan {
    let Some(found) = found else { return Plan::Create };
    let is_for_it = found.accounts.len() == 1
        && found.accounts.contains(wanted.account)
        && found.allowed.len() == 1
        && found.allowed.contains(wanted.allowed);
    match &found.unit {
        _ if !is_for_it => Plan::Rebuild,
        None => Plan::Reopen,
        Some(unit) if unit.path != wanted.path => Plan::Rebuild,
        // the mode is said after the unit is made
        Some(unit) if unit.readonly != wanted.readonly && !found.is_offline => Plan::Rebuild,
        Some(unit) => {
            let shown = unit.size_mb.saturating_mul(1_000_000);
            let is_old = shown.abs_diff(wanted.bytes) > SIZE_TOLERANCE_BYTES;
            if is_old || found.is_offline { Plan::Reopen } else { Plan::Nothing }
        }
    }
}

/// Reads a listing of connections: session and connection numbers.
pub fn parse_connections(text: &str) -> Vec<(String, String)> {
    let mut session = None;
    let mut connections = Vec::new();
    for line in text.lines() {
        if let Some(sid) = line.strip_prefix("Session: ") {
            session = Some(sid.trim().to_owned());
        } else if let (Some(sid), Some(cid)) = (&session, line.trim().strip_prefix("Connection: ")) {
            connections.push((sid.clone(), cid.to_owned()));
        }
    }
    connections
}

/// Where a tgtd listens, as far as hosts that connect to one portal are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listening {
    /// There, or on all addresses.
    There,
    /// On that port of another address that hosts reach: perhaps what is behind a translation of addresses.
    Beside,
    /// Nowhere near it.
    Elsewhere,
}

/// What a listing of portals says about one.
pub fn listening(text: &str, portal: &str) -> Listening {
    let shown = text.lines().filter_map(|line| line.strip_prefix("Portal: ")?.rsplit_once(','));
    let shown: Vec<SocketAddr> = shown.filter_map(|(at, _)| at.parse().ok()).collect();
    let Ok(wanted) = portal.parse::<SocketAddr>() else { return Listening::Elsewhere };
    let is_there = |at: &SocketAddr| {
        let is_all = at.ip().is_unspecified() && at.is_ipv4() == wanted.is_ipv4();
        at.port() == wanted.port() && (is_all || at.ip() == wanted.ip())
    };
    if shown.iter().any(is_there) {
        Listening::There
    } else if shown.iter().any(|at| at.port() == wanted.port() && !at.ip().is_loopback()) {
        Listening::Beside
    } else {
        Listening::Elsewhere
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    System,
    Nexus,
    Unit(u32),
    Accounts,
    Allowed,
}

/// Reads the listing.
pub fn parse(text: &str) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    let mut section = Section::Nexus;
    for line in text.lines() {
        if let Some((tid, name)) = line.strip_prefix("Target ").and_then(|rest| rest.split_once(": ")) {
            let tid = tid.parse().unwrap_or_default();
            targets.push(Target { tid, name: name.to_owned(), ..Target::default() });
            section = Section::Nexus;
            continue;
        }
        let Some(target) = targets.last_mut() else { continue };
        let entry = line.trim();
        match entry {
            "Account information:" => section = Section::Accounts,
            "ACL information:" => section = Section::Allowed,
            "System information:" => section = Section::System,
            "I_T nexus information:" | "LUN information:" => section = Section::Nexus,
            _ => take_entry(target, &mut section, entry),
        }
    }
    targets
}

fn take_entry(target: &mut Target, section: &mut Section, entry: &str) {
    if let Some(number) = entry.strip_prefix("LUN: ") {
        let number = number.parse().unwrap_or_default();
        *section = Section::Unit(number);
        if number == LUN {
            target.unit = Some(Unit::default());
        }
        return;
    }
    match (*section, &mut target.unit) {
        (Section::System, _) => target.is_offline |= entry == "State: offline",
        (Section::Accounts, _) => {
            // an account for outgoing logins has a note behind it
            target.accounts.extend(entry.split_whitespace().next().map(ToOwned::to_owned));
        }
        (Section::Allowed, _) => {
            target.allowed.insert(entry.to_owned());
        }
        (Section::Unit(LUN), Some(unit)) => match entry.split_once(": ") {
            Some(("Size", size)) => {
                let number = size.split_whitespace().next().unwrap_or_default();
                unit.size_mb = number.parse().unwrap_or_default();
            }
            Some(("Readonly", flag)) => unit.readonly = flag == "Yes",
            Some(("Backing store path", path)) => path.clone_into(&mut unit.path),
            Some(_) | None => {}
        },
        (Section::Nexus | Section::Unit(_), _) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "\
Target 1: iqn.2010-10.org.openstack:attachment-x
    System information:
        Driver: iscsi
        State: ready
    I_T nexus information:
        I_T nexus: 12
            Initiator: iqn.test:good alias: none
            Connection: 0
                IP Address: 127.0.0.1
    LUN information:
        LUN: 0
            Type: controller
            SCSI ID: IET     00010000
            Size: 0 MB, Block size: 1
            Readonly: No
            Backing store type: null
            Backing store path: None
            Backing store flags: 
        LUN: 1
            Type: disk
            SCSI ID: IET     00010001
            SCSI SN: beaf11
            Size: 1074 MB, Block size: 512
            Online: Yes
            Readonly: Yes
            Backing store type: rdwr
            Backing store path: /srv/volume-1
            Backing store flags: 
    Account information:
        user1
    ACL information:
        iqn.test:good
Target 12: iqn.other
    LUN information:
        LUN: 0
            Type: controller
    Account information:
    ACL information:
";

    fn found() -> Target {
        parse(SHOWN).remove(0)
    }

    fn wanted() -> Wanted<'static> {
        Wanted {
            path: "/srv/volume-1",
            bytes: 1 << 30,
            readonly: true,
            account: "user1",
            allowed: "iqn.test:good",
        }
    }

    #[test]
    fn a_listing_is_read() {
        let targets = parse(SHOWN);
        assert_eq!(targets.iter().map(|target| target.tid).collect::<Vec<_>>(), [1, 12]);
        let unit = Unit { path: "/srv/volume-1".to_owned(), size_mb: 1074, readonly: true };
        assert_eq!(targets[0].unit, Some(unit));
        assert_eq!(targets[0].accounts, BTreeSet::from(["user1".to_owned()]));
        assert_eq!(targets[0].allowed, BTreeSet::from(["iqn.test:good".to_owned()]));
        assert_eq!(targets[1], Target { tid: 12, name: "iqn.other".to_owned(), ..Target::default() });
        assert_eq!(parse(""), []);
    }

    #[test]
    fn what_is_right_is_left_alone_and_what_is_not_there_is_made() {
        assert_eq!(plan(Some(&found()), &wanted()), Plan::Nothing);
        assert_eq!(plan(None, &wanted()), Plan::Create);
    }

    #[test]
    fn another_size_is_put_right_for_hosts_that_stay() {
        let grown = Wanted { bytes: 2 << 30, ..wanted() };
        assert_eq!(plan(Some(&found()), &grown), Plan::Reopen);
        let unmoded = found().unit.map(|unit| Unit { readonly: false, ..unit });
        for interrupted in [
            Target { is_offline: true, ..found() },
            Target { is_offline: true, unit: None, ..found() },
            Target { unit: unmoded, is_offline: true, ..found() },
        ] {
            assert_eq!(plan(Some(&interrupted), &wanted()), Plan::Reopen, "{interrupted:?}");
        }
    }

    #[test]
    fn every_connection_of_every_session_is_read() {
        let text = "Session: 2\n    Connection: 0\n        Initiator: iqn.a\n        IP Address: 127.0.0.1\n\
                    Session: 1\n    Connection: 0\n    Connection: 3\n";
        let pair = |sid: &str, cid: &str| (sid.to_owned(), cid.to_owned());
        assert_eq!(parse_connections(text), [pair("2", "0"), pair("1", "0"), pair("1", "3")]);
        assert_eq!(parse_connections(""), []);
    }

    #[test]
    fn a_target_that_is_half_made_is_made_anew() {
        for half in [
            Target { unit: None, allowed: BTreeSet::new(), ..found() },
            Target { allowed: BTreeSet::new(), ..found() },
            Target { accounts: BTreeSet::new(), allowed: BTreeSet::new(), ..found() },
        ] {
            assert_eq!(plan(Some(&half), &wanted()), Plan::Rebuild, "{half:?}");
        }
    }

    #[test]
    fn a_target_for_another_host_mode_file_or_user_is_made_anew() {
        for other in [
            Wanted { allowed: "iqn.test:other", ..wanted() },
            Wanted { readonly: false, ..wanted() },
            Wanted { path: "/srv/volume-2", ..wanted() },
            Wanted { account: "user2", ..wanted() },
        ] {
            assert_eq!(plan(Some(&found()), &other), Plan::Rebuild, "{other:?}");
        }
        let open = Target { accounts: BTreeSet::new(), ..found() };
        assert_eq!(plan(Some(&open), &wanted()), Plan::Rebuild);
    }

    #[test]
    fn a_portal_is_there_on_its_own_address_or_on_all() {
        let text = "Portal: [::]:3262,1\nPortal: 0.0.0.0:3260,1\nPortal: 127.0.0.1:3261,1\n\
            Portal: 198.51.100.7:3263,1\n";
        for (portal, expected) in [
            ("0.0.0.0:3260", Listening::There),
            ("192.0.2.7:3260", Listening::There),
            ("[2001:db8::7]:3262", Listening::There),
            ("127.0.0.1:3261", Listening::There),
            ("198.51.100.7:3263", Listening::There),
            ("192.0.2.7:3263", Listening::Beside),
            ("192.0.2.7:3261", Listening::Elsewhere),
            ("192.0.2.7:326", Listening::Elsewhere),
        ] {
            assert_eq!(listening(text, portal), expected, "{portal}");
        }
        assert_eq!(listening("", "192.0.2.7:3260"), Listening::Elsewhere);
    }
}
