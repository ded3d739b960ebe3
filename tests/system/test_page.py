#!/usr/bin/env python3
"""The status page in headless Chromium, served by a real daemon that learned from the mock broker. usage: test_page.py BUILD

Looks at what an operator sees: the daemon's own numbers, problems first, on a desk and on a phone, by day and by night."""
import http.server
import json
import os
import re
import shutil
import signal
import sys
import threading
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "crash")]
import browser as chromium                                              # noqa: E402
import plant as fixture                                                 # noqa: E402

EVENTS = 6000
HOSTILE = "<img src=/hostile onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
plant = fixture.Plant("page")
place = {}

# What the page says, by the headings that people read.
TILE = """Object.fromEntries([...document.querySelectorAll('.tile')].map(t => [t.querySelector('h2').textContent,
          [...t.querySelectorAll('p')].map(p => p.textContent)]))"""
ROWS = """Object.fromEntries([...document.querySelectorAll('.card')].map(c => [c.querySelector('h2').textContent,
          [...c.querySelectorAll('tbody tr')].map(r => [...r.children].map(x => x.textContent))]))"""
LEGEND = """Object.fromEntries([...document.querySelectorAll('.chart')].map(c => [c.querySelector('h2').firstChild.textContent,
          [...c.querySelectorAll('.legend b')].map(b => b.textContent)]))"""


def world():
    """A daemon that has learned all of its stream, with two versions out; and a browser. Made once."""
    if place:
        return place["daemon"], place["browser"]
    if not chromium.find():
        raise fixture.Skip("there is no chromium: tools/setup.sh browser installs it")
    stream = fixture.Stream(plant.folder, EVENTS)
    broker = plant.broker(stream).produce()
    daemon = plant.daemon(broker, "paged", interval="1s")
    daemon.configure("500ms")
    daemon.start()
    daemon.until(lambda s: s["examples"]["all"] >= stream.examples and s["join"]["pending"] == 0, "all learned")
    for _ in range(2):
        fixture.ctl("publish", "--control", daemon.socket)
    place["daemon"], place["browser"], place["stream"] = daemon, chromium.Browser(), stream
    return daemon, place["browser"]


def opened(fragment="", **how):
    daemon, browser = world()
    browser.open("about:blank")
    browser.console.clear()
    browser.requests.clear()
    browser.open(f"http://127.0.0.1:{daemon.port}/{fragment}", **how)
    browser.until("document.querySelectorAll('.tile').length && document.querySelectorAll('.chart path').length")
    return daemon, browser


def number(text):
    return float(re.sub(r"[ ,]", "", text))


def shows_the_daemons_numbers():
    daemon, browser = opened()
    browser.until(ROWS + "['Snapshots'].length && " + ROWS + "['Versions'].length")
    browser.until("history.time.length >= 3")       # looked at every five seconds
    shown, tiles, status = browser.evaluate(ROWS), browser.evaluate(TILE), daemon.status_page()
    join = {row[0]: row[1] for row in shown["Join"]}
    for key, value in status["join"].items():
        said = join[key.replace("_", " ")]
        assert said == ("yes" if value else "no") if isinstance(value, bool) else number(said) == value, (key, said, value)
    assert join["adds up"] == "yes" and number(join["matched"]) > 0
    assert {row[0]: number(row[1]) for row in shown["Records"]} == {k.replace("_", " "): v for k, v in status["events"].items()}
    quality = {row[0]: row[1:] for row in shown["Quality"]}
    for users in ("all", "new", "old"):
        window = status["metrics"][users]["window"]
        row = quality[("all users" if users == "all" else users) + ", window"]
        assert [number(cell) for cell in row] == [round(window["auc"], 4), round(window["gauc"], 4), round(window["log_loss"], 4),
                                                  round(window["calibration"], 4), window["examples"], window["clicks"]], (users, row, window)
    assert number(tiles["AUC"][0]) == round(status["metrics"]["all"]["window"]["auc"], 4)
    assert number(tiles["Learning"][1].split()[0]) == status["examples"]["all"] == place["stream"].examples
    partitions = [[row[0], *map(number, row[1:5])] for row in shown["Partitions"]]
    assert partitions == [[s["topic"], s["partition"], s["next"], s["end"], s["lag"]] for s in status["sources"]], partitions
    assert {row[0]: number(row[1]) for row in shown["Embedding tables"]} == {k: v["rows"] for k, v in status["tables"].items()}
    assert number(shown["Versions"][0][1]) == status["checkpoint"]["version"] and shown["Versions"][0][4] == "published", shown["Versions"]
    assert number(shown["Snapshots"][0][1]) <= status["snapshot"]["cut"] and shown["Snapshots"][0][5] == "ok", shown["Snapshots"]
    assert browser.evaluate("document.getElementById('state').textContent") == "running"
    assert browser.evaluate("document.getElementById('problems').children.length") == 0


def draws_what_history_says():
    daemon, browser = opened("#6h")
    told = json.loads(daemon.get("/history?span=6h"))
    status, legend = daemon.status_page(), browser.evaluate(LEGEND)
    last = {key: values[-1] for key, values in told["series"].items()}
    for users in ("all", "new", "old"):
        values = [v for v in json.loads(daemon.get("/history"))["series"]["auc_" + users] if v is not None]
        assert abs(values[-1] - status["metrics"][users]["window"]["auc"]) < 1e-4, (users, values)
    assert abs(last["loss_ranking"] - status["losses"]["ranking"]) < 0.3, (last, status["losses"])
    assert len(legend) == 9 and all("–" not in legend[chart] for chart in ("AUC", "Log loss", "Ranking tower", "Join outcomes")), legend
    assert len(told["time"]) == len(told["series"]["auc_all"]) and told["step"] == 30000
    # Nothing on an axis is cut off, whatever a day in the past makes of "behind".
    cut = browser.evaluate("""[...document.querySelectorAll('.chart text')].filter(t => { const a = t.getBoundingClientRect(),
                              b = t.closest('svg').getBoundingClientRect(); return a.left < b.left - .5 || a.right > b.right + .5; })
                              .map(t => t.closest('.chart').querySelector('h2').textContent + ': ' + t.textContent)""")
    assert not cut, cut
    # The pointer reads a value off every chart; the arrow keys go through the points.
    browser.evaluate("location.hash = '#1h'")
    browser.until("history.span === '1h' && charts[0].data.step === 5000 && history.time.length >= 2")
    assert browser.evaluate("document.querySelector('#spans [aria-current]').textContent") == "Hour"
    browser.evaluate("charts[2].svg.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft'}))")
    time = browser.evaluate("[charts[0].when.textContent, charts[2].when.textContent, format.time(charts[0].data.time.at(-1))]")
    assert len(set(time)) == 1, time
    assert browser.evaluate("document.querySelectorAll('.chart .here').length") == 9
    browser.evaluate("charts[2].onHover(null)")
    assert browser.evaluate("document.querySelectorAll('.chart .here').length") == 0
    browser.evaluate("charts[2].more.open = true")
    rows = browser.until("charts[2].more.querySelectorAll('tbody tr').length")
    assert rows >= 2, rows


def is_alone_and_quiet():
    daemon, browser = opened()
    browser.until("history.time.length >= 2")
    origin = f"http://127.0.0.1:{daemon.port}/"
    away = [url for url in browser.requests if not url.startswith(origin) and url != "about:blank"]
    assert browser.requests and not away, away
    assert not browser.console, browser.console
    # The policy lets nothing else run, whoever gets markup into the page.
    browser.evaluate("""(() => { const s = document.createElement('script'); s.textContent = "document.title = 'owned'"; document.head.append(s);
                        document.body.insertAdjacentHTML('beforeend', '<b id=x onclick="document.title=1">x</b>');
                        document.getElementById('x').click(); })()""")
    assert "owned" not in browser.evaluate("document.title") and browser.evaluate("document.title") != "1"
    assert browser.evaluate("fetch('http://127.0.0.1:9/').then(() => 'went', () => 'refused')") == "refused"


def fits_a_phone():
    for dark in (False, True):
        _, browser = opened(width=360, height=740, phone=True, dark=dark)
        browser.until("document.querySelectorAll('.card').length >= 8")
        browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        wide = browser.evaluate("""[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll *') &&
                                   e.getBoundingClientRect().right > 360.5).map(e => e.tagName + ' ' + e.className)""")
        assert browser.evaluate("document.documentElement.scrollWidth") <= 360 and not wide, wide


def is_legible_by_day_and_by_night():
    ground = {}
    for dark in (False, True):
        _, browser = opened(dark=dark)
        poor = browser.evaluate("""(() => {
            const rgb = c => c.match(/[\\d.]+/g).map(Number);
            const light = c => { const [r, g, b] = rgb(c).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
                                 return .2126 * r + .7152 * g + .0722 * b; };
            const under = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
                                 if (rgb(c).length < 4 || rgb(c)[3] > 0) return c; } return 'rgb(255,255,255)'; };
            const all = [...document.querySelectorAll('body *')].filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
            return all.map(e => { const s = getComputedStyle(e), a = light(e.namespaceURI.endsWith('svg') ? s.fill : s.color), b = light(under(e));
                                  return [e.tagName + ' ' + e.className, (Math.max(a, b) + .05) / (Math.min(a, b) + .05)]; }).filter(x => x[1] < 4.5); })()""")
        assert not poor, poor[:10]
        ground[dark] = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", ground[True]))) < 150 < 600 < sum(map(int, re.findall(r"\d+", ground[False]))), ground


def says_what_is_wrong_first():
    daemon, browser = opened()
    fixture.ctl("pause", "--control", daemon.socket)
    browser.until("document.getElementById('state').textContent === 'not ready'")
    problem = browser.until("document.querySelector('#problems .problem')?.textContent")
    assert "paused" in problem, problem
    assert browser.evaluate("document.title").startswith("not ready")
    browser.until(ROWS + "['When it was not ready'][0]?.[2].includes('paused')")
    row = browser.evaluate(ROWS)["When it was not ready"][0]
    assert "paused" in row[2] and row[1] == "lasts", row
    browser.until("document.querySelectorAll('.chart .outage').length")
    fixture.ctl("resume", "--control", daemon.socket)
    browser.until("document.getElementById('state').textContent === 'running' && !document.querySelector('.problem')")
    browser.until(ROWS + "['When it was not ready'][0][1] !== 'lasts'")


class Hostile(http.server.BaseHTTPRequestHandler):
    """The daemon's pages, with every text and every name in the JSON replaced by markup."""
    asked = []

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.asked.append(self.path)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.server.daemon.port}{self.path}") as answer:
                code, headers, body = 200, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            code, headers, body = error.code, error.headers, error.read()
        if self.path.startswith(("/status", "/readyz", "/history")):
            text = json.loads(body)
            if self.path.startswith("/readyz"):
                code, text = 503, {"ready": False, "reasons": ["", {"reason": "", "remedy": ""}]}
            if self.path.startswith("/status"):
                text["tables"] = {HOSTILE: next(iter(text["tables"].values()))}
                text["events"][HOSTILE] = text["join"][HOSTILE] = 1
            if self.path.startswith("/history"):
                text["outages"] = text["versions"] = [{**text["versions"][0], "ok": False}]
            body = json.dumps(self.soil(text)).encode()
        self.send_response(code)
        for name in ("Content-Type", "Content-Security-Policy"):
            if headers[name]:
                self.send_header(name, headers[name])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def soil(self, value, key=None):
        if isinstance(value, dict):
            return {k: self.soil(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [self.soil(v) for v in value]
        return HOSTILE if isinstance(value, str) and key != "span" else value


def never_makes_markup_of_names():
    daemon, browser = world()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    server.daemon = daemon
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        browser.console.clear()
        browser.open(f"http://127.0.0.1:{server.server_port}/", width=360, height=740, phone=True)
        browser.until("document.querySelectorAll('.card').length >= 8 && document.querySelectorAll('.chart path').length")
        assert browser.evaluate("document.body.textContent.split('onerror').length") > 10
        assert browser.evaluate("document.querySelectorAll('img').length") == 1, "the icon's alone"
        assert browser.evaluate("document.querySelectorAll('script').length") == 2
        assert "/hostile" not in Hostile.asked and browser.evaluate("document.title").endswith("Coldstream")
        assert browser.evaluate("document.documentElement.scrollWidth") <= 360, "long names make the page wider than the screen"
        assert not [line for line in browser.console if "503" not in line], browser.console
    finally:
        server.shutdown()
        server.server_close()


def says_when_the_daemon_is_gone():
    daemon, browser = opened()
    assert daemon.stop() == 0
    browser.until("document.getElementById('state').textContent.startsWith('no answer since')")
    assert browser.evaluate("document.title").startswith("no answer")
    assert browser.evaluate("document.body.classList.contains('lost') && document.querySelectorAll('.tile').length > 0")
    problem = browser.evaluate("[...document.querySelectorAll('.problem')].map(p => p.textContent)")
    assert len(problem) == 1 and "does not answer" in problem[0], problem
    daemon.start()
    browser.until("document.getElementById('state').textContent === 'running'")
    assert browser.evaluate("document.querySelectorAll('.problem.gone').length") == 0
    # A new process has a new history: nothing of the old one is drawn as if it were this one's.
    started = daemon.status_page()["started"]
    browser.until(f"history.started === {started} && history.time.every(t => t > {started} - 5000)")


TESTS = [shows_the_daemons_numbers, draws_what_history_says, is_alone_and_quiet, fits_a_phone, is_legible_by_day_and_by_night,
         says_what_is_wrong_first, never_makes_markup_of_names, says_when_the_daemon_is_gone]


def run():
    """One world serves all tests, in this order."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"# seed {fixture.SEED}", flush=True)
    try:
        return fixture.harness.judge_all(TESTS, called=lambda test: "the page " + test.__name__.replace("_", " "))
    finally:
        if "browser" in place:
            place["browser"].close()
        plant.tidy()
        shutil.rmtree(plant.folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(run())
