//! What HAProxy says of its servers: `show servers state` and `show stat`.

use std::net::IpAddr;

use super::super::Sight;

/// Put into maintenance by command or configuration (HAProxy's `SRV_ADMF_FMAINT`).
const FORCED_MAINTENANCE: u32 = 0x01;
/// Drained by command (`SRV_ADMF_FDRAIN`).
const FORCED_DRAIN: u32 = 0x08;
/// Only tells that the configuration said `disabled` (`SRV_ADMF_CMAINT`); keeps nothing away.
const CONFIGURED_MAINTENANCE: u32 = 0x04;

/// A check is configured and goes on (`CHK_ST_CONFIGURED`, `CHK_ST_ENABLED`), and nobody has paused it (`CHK_ST_PAUSED`).
const CHECK_STATE: u32 = 0x02 | 0x04;
const CHECK_PAUSED: u32 = 0x08;

/// The last check succeeded: L4OK, L6OK, L7OK, L7OKC, PROCOK.
const CHECK_SUCCEEDED: [u32; 5] = [6, 9, 15, 16, 20];
/// It failed: L4TOUT, L4CON, L6TOUT, L6RSP, L7TOUT, L7RSP, L7STS, PROCERR, PROCTOUT. Others are none, or HAProxy's own.
const CHECK_FAILED: [u32; 9] = [7, 8, 10, 11, 12, 13, 17, 18, 19];

/// The longest name that is put into a command: that of a pod.
const MAX_NAME_BYTES: usize = 253;

/// Whether HAProxy takes this as the name of a server or a backend.
///
/// Nothing else may be put into a command: a space, a line's end or a semicolon would begin another.
pub(super) fn is_name(text: &str) -> bool {
    let is_known = |it: u8| it.is_ascii_alphanumeric() || b"_:.-".contains(&it);
    !text.is_empty() && text.len() <= MAX_NAME_BYTES && text.bytes().all(is_known)
}

/// One server of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) backend: String,
    backend_id: u32,
    pub(super) name: String,
    id: u32,
    /// Absent while a name is not resolved.
    pub(super) addr: Option<IpAddr>,
    /// 0 when it is the port that the client asked for.
    pub(super) port: u16,
    pub(super) admin: u32,
    /// Of the server's own weight, not of what slow start makes of it.
    pub(super) weight: u32,
    /// As configured.
    pub(super) initial_weight: u32,
    /// What its health check says.
    pub(super) check: Sight,
}

impl Server {
    /// As commands name it.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.backend, self.name)
    }

    /// Whether somebody ordered it into maintenance.
    pub(super) fn is_in_maintenance(&self) -> bool {
        self.admin & FORCED_MAINTENANCE != 0
    }

    /// Whether somebody ordered that it gets nothing new. What another server's state or a name that
    /// does not resolve brings about does not count: it may end at any time.
    pub(super) fn is_drained(&self) -> bool {
        self.admin & (FORCED_MAINTENANCE | FORCED_DRAIN) != 0
    }

    /// Whether nothing but its health check decides if it gets something.
    pub(super) fn is_ready(&self) -> bool {
        self.admin & !CONFIGURED_MAINTENANCE == 0
    }

    /// The command that asks what it has to do, for [`Load::parse`].
    pub(super) fn show_load(&self) -> String {
        format!("show stat {} 4 {}", self.backend_id, self.id)
    }
}

/// All servers in a reply to `show servers state`; nothing if it is no such reply.
pub(super) fn parse(reply: &str) -> Option<Vec<Server>> {
    let mut lines = reply.lines().skip_while(|line| !line.starts_with('#'));
    let columns: Vec<&str> = lines.next()?.trim_start_matches('#').split_whitespace().collect();
    let mut servers = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let cells: Vec<&str> = line.split_whitespace().collect();
        let cell = |name: &str| cell(&columns, &cells, name);
        let name = |column: &str| cell(column).filter(|it| is_name(it)).map(str::to_owned);
        servers.push(Server {
            backend: name("be_name")?,
            backend_id: cell("be_id")?.parse().ok()?,
            name: name("srv_name")?,
            id: cell("srv_id")?.parse().ok()?,
            addr: cell("srv_addr")?.parse().ok().map(|addr: IpAddr| addr.to_canonical()),
            port: cell("srv_port")?.parse().ok()?,
            admin: cell("srv_admin_state")?.parse().ok()?,
            weight: cell("srv_uweight")?.parse().ok()?,
            initial_weight: cell("srv_iweight")?.parse().ok()?,
            check: sight(cell("srv_check_state"), cell("srv_check_status")),
        });
    }
    Some(servers)
}

/// What a server has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    /// Sessions under way.
    pub(super) sessions: u64,
    /// Sessions that wait for this very server and will be connected to it.
    pub(super) queued: u64,
}

impl Load {
    /// From a reply to [`Server::show_load`]; nothing if it is no such reply. A server that has been
    /// deleted since has nothing to do.
    pub(super) fn parse(reply: &str, server: &Server) -> Option<Load> {
        let mut lines = reply.lines();
        let columns: Vec<&str> = lines.next()?.strip_prefix("# ")?.split(',').collect();
        for line in lines {
            let cells: Vec<&str> = line.split(',').collect();
            let cell = |name: &str| cell(&columns, &cells, name);
            if cell("pxname") == Some(&server.backend) && cell("svname") == Some(&server.name) {
                let sessions = cell("scur")?.parse().ok()?;
                let queued = cell("qcur")?.parse().ok()?;
                return Some(Load { sessions, queued });
            }
        }
        Some(Load::default())
    }
}

/// What the last check of a server said, if checks of it go on. Columns that are not there say nothing.
fn sight(state: Option<&str>, status: Option<&str>) -> Sight {
    let number = |cell: Option<&str>| cell.and_then(|it| it.parse::<u32>().ok());
    let goes_on = number(state).is_some_and(|it| it & (CHECK_STATE | CHECK_PAUSED) == CHECK_STATE);
    match number(status).filter(|_| goes_on) {
        Some(status) if CHECK_SUCCEEDED.contains(&status) => Sight::Up,
        Some(status) if CHECK_FAILED.contains(&status) => Sight::Down,
        _ => Sight::Unknown,
    }
}

fn cell<'a>(columns: &[&str], cells: &[&'a str], name: &str) -> Option<&'a str> {
    let at = columns.iter().position(|column| *column == name)?;
    cells.get(at).copied()
}
