//! A network that does to reports what networks do.

/// Passes reports on to a controller. Of five, one is lost, the answer of one is lost, and one arrives
/// up to three seconds late, after what was sent behind it.
pub const FAULTS: &str = "
import http.client, http.server, random, sys, time
host, port = sys.argv[1].rsplit(':', 1)
chance = random.Random(7)
class Faults(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *_): pass
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        fate = chance.random()
        if fate < 0.2:
            self.close_connection = True
            return
        if fate < 0.4:
            time.sleep(chance.random() * 3)
        controller = http.client.HTTPConnection(host, int(port), timeout=10)
        controller.request('POST', self.path, body, {'Content-Type': 'application/json'})
        answer = controller.getresponse()
        content = answer.read()
        controller.close()
        if fate > 0.8:
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)
server = http.server.ThreadingHTTPServer(('10.99.0.1', 0), Faults)
print(server.server_address[1], flush=True)
server.serve_forever()
";
