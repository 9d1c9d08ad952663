//! Which servers a target is, and which commands bring them to where an order wants them. No I/O but
//! reading the table.

use std::net::SocketAddr;

use super::super::{Action, Error, ErrorKind, Member, Order, Sight};
use super::runtime::Session;
use super::servers::{self, Server};
use super::{AddServer, Deregister, Match, Policy, WeightZero};

/// The servers that HAProxy has, as far as we may look.
pub(super) struct Table {
    servers: Vec<Server>,
    /// Backends of the configuration that HAProxy does not have.
    missing: Vec<String>,
}

impl Table {
    /// Reads it: of `backends`, or of all if there are none.
    ///
    /// # Errors
    ///
    /// When the connection breaks, or what is there is no HAProxy.
    pub(super) async fn read(
        session: &mut Session<'_>,
        backends: &[String],
    ) -> Result<Self, Error> {
        const COMMAND: &str = "show servers state";
        let commands: Vec<String> = match backends {
            [] => vec![COMMAND.to_owned()],
            some => some.iter().map(|backend| format!("{COMMAND} {backend}")).collect(),
        };
        let replies = session.ask(&commands).await?;
        let mut table = Table { servers: Vec::new(), missing: Vec::new() };
        for (at, reply) in replies.iter().enumerate() {
            match (servers::parse(reply), backends.get(at)) {
                (Some(servers), _) => table.servers.extend(servers),
                (None, Some(backend)) if reply.starts_with("Can't find backend") => {
                    table.missing.push(backend.clone());
                }
                (None, _) => return Err(session.nonsense(&commands[at], reply)),
            }
        }
        Ok(table)
    }

    /// The target's servers.
    pub(super) fn find(&self, policy: &Policy, member: &Member) -> Vec<&Server> {
        self.servers.iter().filter(|it| policy.is_of(it, member)).collect()
    }
}

/// What two checks of one target say: up if one says so, down if both do.
pub(super) fn either(one: Sight, other: Sight) -> Sight {
    match (one, other) {
        (Sight::Up, _) | (_, Sight::Up) => Sight::Up,
        (Sight::Down, Sight::Down) => Sight::Down,
        _ => Sight::Unknown,
    }
}

impl Policy {
    fn is_of(&self, server: &Server, member: &Member) -> bool {
        match self.matching {
            Match::Name => server.name == member.pod_name,
            Match::Address => {
                let added = self.add_server.as_ref().and_then(|it| it.port);
                let is_its_port = |port| member.ports.contains(&port) || added == Some(port);
                let addr = member.ip.map(|it| it.to_canonical());
                // A server without a port is reached at whichever the client asked for.
                addr.is_some()
                    && server.addr == addr
                    && (server.port == 0 || is_its_port(server.port))
            }
        }
    }

    /// Whether an order put it where it gets nothing new.
    pub(super) fn is_at_zero(&self, server: &Server) -> bool {
        match self.weight_zero {
            WeightZero::Drain => server.is_drained(),
            WeightZero::Weight => server.weight == 0 || server.is_in_maintenance(),
        }
    }

    /// Whether it gets as much as ever.
    pub(super) fn is_registered(&self, server: &Server) -> bool {
        server.is_ready() && !self.wants_weight(server)
    }

    fn wants_weight(&self, server: &Server) -> bool {
        self.weight_zero == WeightZero::Weight && server.weight == 0 && server.initial_weight != 0
    }

    /// The backends to which one must be added, as it is in `servers` only.
    pub(super) fn lacking(&self, servers: &[&Server]) -> Vec<&str> {
        let has_one = |backend: &str| servers.iter().any(|it| it.backend == backend);
        match self.add_server {
            Some(_) => self.backends.iter().map(String::as_str).filter(|it| !has_one(it)).collect(),
            None => Vec::new(),
        }
    }
}

/// The commands that carry out the order; none if all is well already.
///
/// # Errors
///
/// When it can't be carried out, because HAProxy does not know the target or the backend.
pub(super) fn commands(
    policy: &Policy,
    table: &Table,
    order: &Order,
) -> Result<Vec<String>, Error> {
    let servers = table.find(policy, &order.member);
    let may_add = order.action == Action::Register && policy.add_server.is_some();
    let mut commands = Vec::new();
    match order.action {
        // What HAProxy does not know is what deregistering wants.
        Action::Deregister => {
            for server in servers {
                let path = server.path();
                if !server.is_in_maintenance() {
                    commands.push(format!("set server {path} state maint"));
                }
                if policy.deregister == Deregister::Delete {
                    commands.push(format!("del server {path}"));
                }
            }
        }
        _ if !table.missing.is_empty() => return Err(no_backend(table)),
        _ if servers.is_empty() && !may_add => return Err(unknown(policy, &order.member)),
        Action::WeightZero => {
            for server in servers.into_iter().filter(|it| !policy.is_at_zero(it)) {
                let what = match policy.weight_zero {
                    WeightZero::Drain => "state drain",
                    WeightZero::Weight => "weight 0",
                };
                commands.push(format!("set server {} {what}", server.path()));
            }
        }
        Action::Register => {
            for server in &servers {
                let path = server.path();
                if server.is_drained() {
                    commands.push(format!("set server {path} state ready"));
                }
                if policy.wants_weight(server) {
                    // Static algorithms know none but the configured one.
                    let weight = match order.former_weight {
                        Some(weight) if weight != server.initial_weight => weight.to_string(),
                        _ => "100%".to_owned(),
                    };
                    commands.push(format!("set server {path} weight {weight}"));
                }
            }
            if let Some(add) = &policy.add_server {
                for backend in policy.lacking(&servers) {
                    add_server(add, backend, &order.member, &mut commands)?;
                }
            }
        }
    }
    Ok(commands)
}

/// The commands that add a server: HAProxy takes it in maintenance and unchecked.
fn add_server(
    add: &AddServer,
    backend: &str,
    member: &Member,
    commands: &mut Vec<String>,
) -> Result<(), Error> {
    let port = add.port.or_else(|| member.ports.first().copied());
    let (Some(ip), Some(port)) = (member.ip, port) else {
        return Err(no_address(member));
    };
    // Unique, as a stateful pod keeps its name and not its address.
    let name = format!("{}_{}:{port}", member.pod_name, ip.to_canonical());
    if !servers::is_name(&name) {
        let message =
            format!("`{name}` can't be a server's name; it may have letters, digits and _ : . -");
        return Err(Error::new(ErrorKind::Refused, message));
    }
    let addr = SocketAddr::new(ip.to_canonical(), port);
    commands
        .push(format!("add server {backend}/{name} {addr} {}", add.options).trim_end().to_owned());
    for (option, what) in [("check", "health"), ("agent-check", "agent")] {
        if add.options.split(' ').any(|it| it == option) {
            commands.push(format!("enable {what} {backend}/{name}"));
        }
    }
    commands.push(format!("set server {backend}/{name} state ready"));
    Ok(())
}

fn no_backend(table: &Table) -> Error {
    let missing = table.missing.join("`, `");
    let message = format!(
        "there is no backend `{missing}`; correct haproxy.backends, or HAProxy's configuration"
    );
    Error::new(ErrorKind::Refused, message)
}

fn no_address(member: &Member) -> Error {
    let message = format!(
        "the report of {member} names no address and port to find its server by; set `match: name`"
    );
    Error::new(ErrorKind::Refused, message)
}

/// The error for a target that has no server.
pub(super) fn unknown(policy: &Policy, member: &Member) -> Error {
    let backends = match &policy.backends[..] {
        [] => "no backend".to_owned(),
        some => format!("none of the backends {}", some.join(", ")),
    };
    let wanted = match (policy.matching, member.ip) {
        (Match::Name, _) => format!("the name {:?}", member.pod_name),
        (Match::Address, Some(ip)) if !member.ports.is_empty() => {
            let ports: Vec<String> = member.ports.iter().map(u16::to_string).collect();
            format!("the address {ip} and one of the ports {}", ports.join(", "))
        }
        (Match::Address, _) => return no_address(member),
    };
    let message = format!(
        "{backends} has a server with {wanted}; compare `show servers state`, and set haproxy.match and \
         haproxy.backends accordingly"
    );
    Error::new(ErrorKind::UnknownTarget, message)
}
