//! What JavaScript sees of a web server and of a WebSocket: Node's `fetch` and Chromium.

use std::process::{Command, Stdio};

use super::nothing_was_opaque;
use crate::support::peers::Peer;
use crate::support::{Directory, Ebbtide};

/// Tells each request what it got, without where it was sent; `/seen` tells the test what came.
const SERVER: &str = "
const { createServer } = require('http'), { createHash } = require('crypto');
const server = createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    const body = Buffer.concat(parts);
    if (request.url.startsWith('/page')) {
        response.setHeader('Content-Type', 'text/html');
        return response.end(`<!doctype html><script>${process.env.PAGE}</script>`);
    }
    if (request.url === '/seen') console.log(body.toString());
    if (request.url === '/hints') {
        response.writeEarlyHints({ link: '</a.css>; rel=preload; as=style' });
        response.writeHead(200, { Trailer: 'Digest', 'Transfer-Encoding': 'chunked' });
        response.write('first ');
        response.addTrailers({ Digest: 'none' });
        return response.end('last');
    }
    if (request.url === '/huge') response.setHeader('X-Huge', 'y'.repeat(60 * 1024));
    if (request.url === '/none') response.statusCode = 404;
    const told = JSON.stringify({ method: request.method, headers: request.rawHeaders,
        bytes: body.length, hash: createHash('sha256').update(body).digest('hex') });
    response.end(told.replaceAll(request.headers.host, 'here'));
});
server.listen(0, '127.0.0.1', function () { console.log(this.address().port) });
";

const SOCKETS: &str = "
import asyncio, websockets
async def echo(ws):
    async for message in ws:
        await ws.send(message)
async def main():
    async with websockets.serve(echo, '127.0.0.1', 0, max_size=None, ping_interval=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()
asyncio.run(main())
";

/// Everything that a client of both can tell.
const CLIENT: &str = "
async function look(http, sockets) {
    const digest = async (bytes) => {
        const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
        return Array.from(hash, byte => byte.toString(16).padStart(2, '0')).join('');
    };
    const body = new Uint8Array(3 << 20).map((_, index) => index * 31 >> 3);
    const headers = { 'X-Huge': 'x'.repeat(60 * 1024) };
    const asked = [['/'], ['/', { method: 'POST', body }], ['/hints'], ['/huge', { headers }],
        ['/none'], ['/', { method: 'HEAD' }], ['/', { method: 'DELETE' }]];
    const seen = [];
    for (const [path, options] of asked) {
        const response = await fetch(http + path, options);
        const fields = [...response.headers].filter(([name]) => name !== 'date');
        const bytes = await response.arrayBuffer();
        seen.push([path, response.status, fields, bytes.byteLength, await digest(bytes)]);
    }
    seen.push(await new Promise((done, fail) => {
        const socket = new WebSocket(`ws://${sockets}/`), came = [];
        socket.binaryType = 'arraybuffer';
        socket.onopen = () => {
            socket.send('short');
            socket.send('long '.repeat(40000));
            socket.send(body);
        };
        socket.onmessage = async ({ data }) => {
            came.push(typeof data === 'string' ? data.length : await digest(data));
            if (came.length === 3) socket.close(1000, 'enough');
        };
        socket.onerror = () => fail(new Error('the WebSocket failed'));
        socket.onclose = ({ code, reason, wasClean }) =>
            done([socket.extensions, came, code, reason, wasClean]);
    }));
    return JSON.stringify(seen);
}
";

/// Both servers, and what a client sees of them with and without Ebbtide.
fn no_difference(look: impl Fn(&Peer, &str, &str) -> String) {
    let mut command = Command::new("node");
    let page = "look(location.origin, location.hash.slice(1)).catch(String)
        .then(seen => fetch('/seen', { method: 'POST', body: seen }));";
    command.args(["--max-http-header-size=131072", "-e", SERVER]);
    command.env("PAGE", format!("{CLIENT}{page}"));
    let server = Peer::server(command);
    let sockets = Peer::python(SOCKETS);
    let direct = look(&server, &server.upstream, &sockets.upstream);
    assert!(
        direct.starts_with("[[\"/\",200,") && direct.ends_with(",1000,\"enough\",true]]"),
        "{direct}"
    );
    for protocol in ["auto", "http1"] {
        let proxy = |upstream| Ebbtide::proxy(upstream, &["--protocol", protocol]);
        let [before_server, before_sockets] = [&server, &sockets].map(|peer| proxy(&peer.upstream));
        let addrs = [&before_server, &before_sockets].map(|proxy| proxy.addr().to_string());
        assert_eq!(look(&server, &addrs[0], &addrs[1]), direct, "{protocol}");
        nothing_was_opaque(&before_server);
        nothing_was_opaque(&before_sockets);
    }
}

#[test]
fn node_fetches_and_talks_as_it_does_without_ebbtide() {
    no_difference(|_, http, sockets| {
        let run = format!("look('http://{http}', '{sockets}').catch(String).then(console.log)");
        let mut command = Command::new("node");
        // Its WebSocket is behind a flag up to Node 21.
        command.args(["--experimental-websocket", "--max-http-header-size=131072", "-e"]);
        command.arg(format!("{CLIENT}{run}")).stderr(Stdio::null());
        Peer::start(command).line()
    });
}

#[test]
fn chromium_fetches_and_talks_as_it_does_without_ebbtide() {
    no_difference(|server, http, sockets| {
        let profile = Directory::new();
        let mut command = Command::new("chromium");
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
            .args(["--disable-component-update"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("http://{http}/page#{sockets}"))
            .stderr(Stdio::null());
        let _chromium = Peer::start(command);
        server.line()
    });
}
