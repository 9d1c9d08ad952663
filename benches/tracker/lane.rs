//! One proxy with an application behind it and clients before it: event loops, as most are.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use super::proxy::Proxy;
use super::work::{Message, Work};

pub(super) struct Lane {
    pub(super) proxy: Proxy,
    /// The clients live here.
    runtime: Runtime,
    clients: Vec<Client>,
}

struct Client {
    work: &'static Work,
    stream: TcpStream,
    request: Message,
}

impl Lane {
    pub(super) fn new(
        work: &'static Work,
        clients: usize,
        start: impl FnOnce(SocketAddr) -> Proxy,
    ) -> Self {
        let proxy = start(application(work));
        let runtime = one_thread();
        let clients = runtime.block_on(async {
            let mut connected = Vec::new();
            for _ in 0..clients {
                connected.push(Client::connect(work, proxy.addr).await.expect("greeted"));
            }
            connected
        });
        Lane { proxy, runtime, clients }
    }

    /// Each client asks so many times, all at once; how many units of work that is.
    pub(super) fn run(&mut self, laps: usize) -> usize {
        let mut running = JoinSet::new();
        for client in self.clients.drain(..) {
            running.spawn_on(client.run(laps), self.runtime.handle());
        }
        let mut units = 0;
        while let Some(client) = self.runtime.block_on(running.join_next()) {
            let client = client.expect("no panic").expect("answered");
            units += laps * client.work.streams.max(1);
            self.clients.push(client);
        }
        units
    }

    /// The proxy, when all clients have gone.
    pub(super) fn end(self) -> Proxy {
        self.proxy
    }
}

impl Client {
    async fn connect(work: &'static Work, proxy: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(proxy).await?;
        stream.set_nodelay(true)?;
        let mut client = Client { work, stream, request: work.request.clone() };
        let (hello, answer) = &work.greeting;
        client.stream.write_all(hello).await?;
        client.stream.read_exact(&mut vec![0; answer.len()]).await?;
        Ok(client)
    }

    async fn run(mut self, laps: usize) -> io::Result<Self> {
        let mut response = vec![0; self.work.response.bytes.len()];
        for _ in 0..laps {
            self.stream.write_all(&self.request.bytes).await?;
            self.stream.read_exact(&mut response).await?;
            self.request.next(self.work.streams);
        }
        Ok(self)
    }
}

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_io().build().expect("a runtime")
}

fn application(work: &'static Work) -> SocketAddr {
    let runtime = one_thread();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a listener");
    let addr = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        runtime.block_on(async {
            while let Ok((stream, _)) = listener.accept().await {
                // A client's end is the end.
                tokio::spawn(serve(stream, work));
            }
        });
    });
    addr
}

async fn serve(mut stream: TcpStream, work: &Work) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (hello, answer) = &work.greeting;
    stream.read_exact(&mut vec![0; hello.len()]).await?;
    stream.write_all(answer).await?;
    let mut request = vec![0; work.request.bytes.len()];
    let mut response = work.response.clone();
    loop {
        stream.read_exact(&mut request).await?;
        stream.write_all(&response.bytes).await?;
        response.next(work.streams);
    }
}
