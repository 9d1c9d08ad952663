//! HAProxy's runtime API: commands in, replies out, over its stats socket.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::super::{Error, ErrorKind};

/// What is written before the replies to it are read. HAProxy's own buffer (tune.bufsize, 16 KiB) and
/// any socket's take as much, so that neither side waits for the other to read.
const MAX_PENDING_BYTES: usize = 8 * 1024;

/// The longest reply that is read: `show servers state` of some 60,000 servers.
const MAX_REPLY_BYTES: usize = 8 * 1024 * 1024;

/// Room for what is read at once: what HAProxy writes at once.
const READ_BYTES: usize = 16 * 1024;

/// What stands behind each reply once `prompt` has been sent.
const PROMPT: &[u8] = b"\n> ";

/// Where an HAProxy takes commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Socket {
    /// `unix:/run/haproxy/admin.sock`
    Unix(PathBuf),
    /// `tcp:host:port`
    Tcp(String),
}

impl FromStr for Socket {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') { Ok(Socket::Unix(path.into())) } else { Err(()) };
        }
        let addr = text.strip_prefix("tcp:").ok_or(())?;
        let (host, port) = addr.rsplit_once(':').ok_or(())?;
        let is_addr = !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0);
        if is_addr { Ok(Socket::Tcp(addr.to_owned())) } else { Err(()) }
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Socket::Unix(path) => write!(f, "unix:{}", path.display()),
            Socket::Tcp(addr) => write!(f, "tcp:{addr}"),
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection on which commands are given.
pub(super) struct Session<'a> {
    socket: &'a Socket,
    stream: Box<dyn Stream>,
    /// Read and not yet part of a reply.
    buffer: Vec<u8>,
}

impl<'a> Session<'a> {
    /// Connects, and asks HAProxy to mark the end of its replies.
    ///
    /// # Errors
    ///
    /// When nobody is there, or may not be spoken to, or is no HAProxy.
    pub(super) async fn open(socket: &'a Socket) -> Result<Self, Error> {
        let stream: io::Result<Box<dyn Stream>> = match socket {
            Socket::Unix(path) => UnixStream::connect(path).await.map(|it| Box::new(it) as _),
            Socket::Tcp(addr) => TcpStream::connect(addr).await.map(|it| Box::new(it) as _),
        };
        let stream = stream.map_err(|error| cannot_connect(socket, &error))?;
        let mut session = Session { socket, stream, buffer: Vec::new() };
        session.write(b"prompt\n").await?;
        let greeting = session.reply("prompt").await?;
        if greeting.trim().is_empty() {
            Ok(session)
        } else {
            Err(session.nonsense("prompt", &greeting))
        }
    }

    /// Gives commands, each without its line's end, and reads their replies, which are in their order.
    ///
    /// # Errors
    ///
    /// When the connection breaks or a reply is endless; the commands may have been carried out.
    pub(super) async fn ask(&mut self, commands: &[String]) -> Result<Vec<String>, Error> {
        let mut replies = Vec::with_capacity(commands.len());
        while let Some(first) = commands.get(replies.len()) {
            let mut lines = format!("{first}\n");
            let mut count = 1;
            for command in &commands[replies.len() + 1..] {
                if lines.len() + command.len() >= MAX_PENDING_BYTES {
                    break;
                }
                lines.push_str(command);
                lines.push('\n');
                count += 1;
            }
            self.write(lines.as_bytes()).await?;
            for command in &commands[replies.len()..][..count] {
                replies.push(self.reply(command).await?);
            }
        }
        Ok(replies)
    }

    /// The error for a reply that this command does not have.
    pub(super) fn nonsense(&self, command: &str, reply: &str) -> Error {
        let excerpt: String = reply.trim().chars().filter(|it| !it.is_control()).take(80).collect();
        let socket = self.socket;
        let message = format!(
            "{socket}: `{command}` was answered by `{excerpt}`; is this the `stats socket` of an HAProxy?"
        );
        Error::new(ErrorKind::Refused, message)
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream.write_all(bytes).await.map_err(|error| self.broken(&error.to_string()))
    }

    async fn reply(&mut self, command: &str) -> Result<String, Error> {
        let mut looked_at = 0;
        loop {
            let unseen = &self.buffer[looked_at..];
            if let Some(at) = unseen.windows(PROMPT.len()).position(|it| it == PROMPT) {
                let end = looked_at + at;
                let reply = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + PROMPT.len());
                return Ok(reply);
            }
            if self.buffer.len() > MAX_REPLY_BYTES {
                let start = String::from_utf8_lossy(&self.buffer[..40]).into_owned();
                return Err(self.nonsense(command, &format!("{start}… without an end")));
            }
            looked_at = (self.buffer.len() + 1).saturating_sub(PROMPT.len());
            self.buffer.reserve(READ_BYTES);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) if self.buffer.is_empty() => {
                    return Err(self.broken("HAProxy closed it"));
                }
                Ok(0) => {
                    let rest = String::from_utf8_lossy(&self.buffer).into_owned();
                    return Err(self.nonsense(command, &rest));
                }
                Ok(_) => {}
                Err(error) => return Err(self.broken(&error.to_string())),
            }
        }
    }

    fn broken(&self, why: &str) -> Error {
        let socket = self.socket;
        let message = format!("{socket}: the connection broke ({why}); was HAProxy restarted?");
        Error::new(ErrorKind::Unreachable, message)
    }
}

fn cannot_connect(socket: &Socket, error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::PermissionDenied {
        let message = format!(
            "{socket}: the controller may not open it; give HAProxy's `stats socket` a user, group or mode \
             that lets it"
        );
        return Error::new(ErrorKind::Denied, message);
    }
    let message = format!(
        "{socket}: nobody listens ({error}); is HAProxy running, and is this its `stats socket`?"
    );
    Error::new(ErrorKind::Unreachable, message)
}
