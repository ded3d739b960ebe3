"""From a file's events to the batches that are learned (interfaces.md, section 2): histories, joining, batches. Lists gone
through from end to end, nothing of core/'s making. What it does not know: join.max_pending, evaluation.hold_out_new."""
import re

UNITS = {"ms": 1, "s": 1000, "m": 60000, "h": 3600000, "d": 86400000}


def duration(value):
    if isinstance(value, int):
        return value
    number, unit = re.fullmatch(r"(\d+)(\w+)", value).groups()
    return int(number) * UNITS[unit]


class Stream:
    def __init__(self, config):
        join = config.get("join", {})
        self.window = duration(join.get("window", "10m"))
        self.at_click = join.get("release", "window") == "click"
        self.correct = join.get("late_click", "drop") == "correct"
        self.history_length = config.get("history", {}).get("max_length", 100)
        self.history, self.clock, self.orders = {}, 0, 0
        self.held, self.known, self.out = {}, {}, []

    def remember(self, event):
        if event["own_history"]:
            self.history.setdefault(event["user_id"], []).append(event["item_id"])

    def put(self, event, clicked, released, correction=False):
        self.out.append(dict(event, clicked=clicked, released=released, correction=correction))

    def order(self):
        self.orders += 1
        return self.orders

    def leave(self, name, released):
        entry = self.held.pop(name)
        if entry["event"] is None:
            return                              # a click without an impression: an orphan
        self.put(entry["event"], entry["clicked"], released)
        self.known[name] = {"event": entry["event"], "clicked": entry["clicked"], "end": released + self.window, "order": self.order()}

    def advance(self, now):
        self.clock = max(self.clock, now)
        for entries, go in ((self.held, lambda name: self.leave(name, self.held[name]["end"])), (self.known, self.known.pop)):
            while True:
                due = [(entry["end"], entry["order"], name) for name, entry in entries.items() if entry["end"] < self.clock]
                if not due:
                    break
                go(min(due)[2])

    def late(self, name):
        entry = self.known[name]
        entry["clicked"] = True
        if self.correct:
            self.remember(entry["event"])
            self.put(entry["event"], True, self.clock, correction=True)

    def impression(self, event):
        name, time = event["impression_id"], event["ts"]
        early = self.held.get(name)
        if name in self.known or early and early["event"] is not None:
            return                              # a duplicate
        entry = {"event": event, "clicked": False, "end": time + self.window, "order": self.order()}
        self.held[name] = entry
        if early and early["time"] <= entry["end"]:
            entry["clicked"] = True
            self.remember(event)
        is_late = early and not entry["clicked"]
        if entry["end"] < self.clock or is_late:
            self.leave(name, self.clock)
        elif entry["clicked"] and self.at_click:
            self.leave(name, max(time, early["time"]))
        if is_late:
            self.late(name)

    def click(self, event):
        name, time = event["impression_id"], event["ts"]
        entry = self.held.get(name)
        if entry is None and name not in self.known:
            self.held[name] = {"event": None, "clicked": True, "time": time, "end": time + self.window, "order": self.order()}
        elif entry is None:
            if not self.known[name]["clicked"]:
                self.late(name)
        elif not entry["clicked"]:
            entry["clicked"] = True
            self.remember(entry["event"])
            if self.at_click:
                self.leave(name, max(entry["event"]["ts"], time))

    def push(self, event):
        self.advance(event["ts"])
        if event["event"] in ("impression", "example"):
            event["own_history"] = event.get("behaviors") is None
            if event["own_history"]:
                event["behaviors"] = self.history.get(event["user_id"], [])[-self.history_length:]
        if event["event"] == "example":
            if event["clicked"]:
                self.remember(event)
            self.put(event, event["clicked"], event["ts"])
        else:
            {"impression": self.impression, "click": self.click, "conversion": lambda event: None}[event["event"]](event)

    def examples(self, events):
        """In the order in which they are learned."""
        for event in events:
            self.push(event)
        while self.held:
            name = min(self.held, key=lambda name: (self.held[name]["end"], self.held[name]["order"]))
            self.leave(name, self.held[name]["end"])
        return self.out


def batches(config, examples):
    """By size, and by event time where the configuration says batch.max_delay: `train` reads a file, which can wait."""
    options = config.get("batch", {})
    size, delay = options.get("size", 1024), duration(options.get("max_delay", 0))
    batch = []
    for example in examples:
        if batch and (len(batch) == size or delay and example["released"] >= batch[0]["released"] + delay):
            yield batch
            batch = []
        batch.append(example)
    if batch:
        yield batch
