//! Bodies of 2 GiB, made and compared as they pass: curl before Node.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use super::nothing_was_opaque;
use crate::support::peers::Peer;
use crate::support::{Ebbtide, is_full_form};

const BLOCK_BYTES: usize = 1 << 20;

/// How many blocks: 2 GiB and one more in the full form, an eighth of it otherwise.
fn blocks() -> usize {
    if is_full_form() { 2049 } else { 256 }
}

/// GET sends so many blocks as the path says; anything else tells the digest of what came.
const NODE: &str = "
const { createServer } = require('http'), { createHash } = require('crypto');
const block = Buffer.alloc(1 << 20).map((_, index) => index * 31 >> 3);
const server = createServer(async (request, response) => {
    if (request.method === 'GET') {
        const count = Number(request.url.slice(1));
        response.setHeader('Content-Length', count * block.length);
        for (let number = 0; number < count; number++) {
            const next = Buffer.from(block);
            next.writeUInt32BE(number);
            if (!response.write(next)) await new Promise(drained => response.once('drain', drained));
        }
        return response.end();
    }
    const hash = createHash('sha256');
    let bytes = 0;
    for await (const part of request) { hash.update(part); bytes += part.length; }
    response.end(JSON.stringify({ bytes, hash: hash.digest('hex') }));
});
server.listen(0, '127.0.0.1', function () { console.log(this.address().port) });
";

/// The block of this number, as Node makes it.
fn write_block(block: &mut [u8], number: usize) {
    block[..4].copy_from_slice(&u32::try_from(number).expect("few blocks").to_be_bytes());
}

fn first_block() -> Vec<u8> {
    (0..BLOCK_BYTES).map(|index| ((index * 31) >> 3) as u8).collect()
}

fn curl(args: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["-sS", "--fail", "--noproxy", "*"]).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Reads a response block by block, and compares each.
fn download(addr: &str) {
    let mut child = curl(&[&format!("http://{addr}/{}", blocks())]).spawn().expect("curl runs");
    let mut stdout = child.stdout.take().expect("a pipe");
    let (mut expected, mut block) = (first_block(), vec![0; BLOCK_BYTES]);
    for number in 0..blocks() {
        write_block(&mut expected, number);
        stdout.read_exact(&mut block).expect("another block");
        assert!(block == expected, "block {number} is another");
    }
    assert_eq!(stdout.read(&mut block).expect("an end"), 0, "more than was sent");
    assert!(child.wait().expect("curl ends").success());
}

/// Sends a request block by block; what the application makes of it.
fn upload(addr: &str) -> String {
    let mut child = curl(&["-T", "-", &format!("http://{addr}/")]).spawn().expect("curl runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut block = first_block();
    for number in 0..blocks() {
        write_block(&mut block, number);
        stdin.write_all(&block).expect("curl takes it");
    }
    drop(stdin);
    let output = child.wait_with_output().expect("curl ends");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn bodies_of_two_gibibytes_arrive_as_they_were_sent() {
    let node = Peer::node(NODE);
    let told = upload(&node.upstream);
    assert!(told.starts_with(&format!("{{\"bytes\":{},", blocks() * BLOCK_BYTES)), "{told}");
    let proxy = Ebbtide::proxy(&node.upstream, &["--protocol", "auto"]);
    let addr = proxy.addr().to_string();
    assert_eq!(upload(&addr), told);
    download(&addr);
    nothing_was_opaque(&proxy);
}
