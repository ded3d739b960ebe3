/* Elements, numbers as people read them, and lines over time as SVG. Texts are only ever set as text: names and reasons
 * come from events and errors, and none of them may become markup. */
'use strict';

function make(tag, properties, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) node.setAttribute(name, value);
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}

function draw(tag, properties, text) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(properties)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

/* ---- numbers; what is not known is a dash */

const NOTHING = '–';
const known = value => typeof value === 'number' && Number.isFinite(value);
const digits = (value, most) => value.toLocaleString('en', { maximumFractionDigits: most });

const format = {
  count: value => known(value) ? digits(value, 0) : NOTHING,
  ratio: value => known(value) ? value.toFixed(4) : NOTHING,
  loss: value => !known(value) ? NOTHING : value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(2) : value.toPrecision(4),
  amount(value) {
    if (!known(value)) return NOTHING;
    const size = Math.abs(value);
    if (size >= 1e9) return digits(value / 1e9, 2) + ' G';
    if (size >= 1e6) return digits(value / 1e6, 2) + ' M';
    if (size >= 1e5) return digits(value / 1e3, 1) + ' k';
    return digits(value, size < 1 ? 3 : size < 10 ? 2 : size < 100 ? 1 : 0);
  },
  bytes(value) {
    if (!known(value)) return NOTHING;
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
    let unit = 0;
    for (; value >= 1024 && unit < 4; unit++) value /= 1024;
    return digits(value, unit && value < 100 ? 1 : 0) + ' ' + units[unit];
  },
  seconds(value) {
    if (!known(value)) return NOTHING;
    if (value < 0) return '-' + format.seconds(-value);
    if (value === 0) return '0 s';
    if (value < 0.9995) return digits(value * 1000, value < 0.01 ? 1 : 0) + ' ms';
    if (value < 60) return digits(value, value < 10 ? 1 : 0) + ' s';
    const parts = [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]];
    let at = parts.findIndex(part => value >= part[1]);
    const whole = Math.floor(value / parts[at][1]), rest = at < 3 ? Math.floor(value % parts[at][1] / parts[at + 1][1]) : 0;
    return whole + ' ' + parts[at][0] + (rest ? ' ' + rest + ' ' + parts[at + 1][0] : '');
  },
  /* As short as an axis wants it: 1 h 20. */
  mark: value => format.seconds(value).replace(/^(\d+ \w+ \d+) \w+$/, '$1'),
  time(ms, seconds = true) {
    if (!known(ms)) return NOTHING;
    const when = new Date(ms), clock = { hour: '2-digit', minute: '2-digit', hour12: false, ...(seconds && { second: '2-digit' }) };
    const text = when.toLocaleTimeString('en-GB', clock);
    return when.toDateString() === new Date().toDateString() ? text : format.day(ms) + ' ' + text;
  },
  day: ms => new Date(ms).toLocaleDateString('en-GB', { day: 'numeric', month: 'short' }),
};

/* ---- tables: columns are [heading, 'n' for numbers or 'nowrap' or '']; rows arrays of texts, `bad` marks one */

function table(caption, columns, rows) {
  const head = make('tr', {}, ...columns.map(([text, kind]) => make('th', { scope: 'col', class: kind || '' }, text)));
  const body = rows.map(row => make('tr', row.bad ? { class: 'bad' } : {}, ...row.map((text, i) =>
    make(i ? 'td' : 'th', i ? { class: columns[i][1] || '' } : { scope: 'row', class: columns[0][1] || '' }, String(text)))));
  return make('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': caption },
    make('table', { 'aria-label': caption }, make('thead', {}, head), make('tbody', {}, ...body)));
}

/* ---- scales */

function ticksOf(low, high, wanted) {
  const raw = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].find(times => times * power >= raw * 0.999) * power, ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step + 0);        /* no -0 */
  return ticks;
}

/* Of seconds, sizes that a clock has. */
function ticksOfSeconds(high, wanted) {
  const step = [1e-3, 2e-3, 5e-3, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400,
    43200, 86400, 172800, 604800].find(size => size * wanted >= high);
  if (!step) return ticksOf(0, high / 86400, wanted).map(days => days * 86400);
  const ticks = [];
  for (let i = 0; i * step <= high * 1.0001; i++) ticks.push(i * step);
  return ticks;
}

function valueScale(spec, values) {
  const some = values.filter(value => known(value) && (!spec.log || value > 0));
  if (!some.length) return { ticks: [], at: value => spec.log ? NaN : value };
  let low = Math.min(...some), high = Math.max(...some);
  if (spec.log) {
    low = Math.floor(Math.log10(low) + 1e-9);
    high = Math.max(Math.ceil(Math.log10(high) - 1e-9), low + 1);
    const every = Math.ceil((high - low) / 4), ticks = [];
    for (let i = low; i <= high; i += every) ticks.push(10 ** i);
    return { ticks, at: value => value > 0 ? (Math.log10(value) - low) / (high - low) : NaN };
  }
  if (spec.zero) low = Math.min(low, 0);
  if (!(high > low)) spec.zero ? high = low + (spec.least || 1) : (low -= 0.01, high += 0.01);
  else if (spec.zero) high += (high - low) * 0.05;
  else [low, high] = [low - (high - low) * 0.1, high + (high - low) * 0.1];
  const ticks = spec.clock && low === 0 ? ticksOfSeconds(high, 5) : ticksOf(low, high, 4);
  return { ticks, at: value => (value - low) / (high - low) };
}

function timeTicks(begin, end, wanted) {
  const sizes = [10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800].map(size => size * 1000);
  const step = sizes.find(size => (end - begin) / size <= wanted) || sizes[sizes.length - 1], ticks = [];
  const offset = new Date(end).getTimezoneOffset() * 60000;       /* ticks on the reader's full hours and midnights */
  for (let t = Math.ceil((begin - offset) / step) * step + offset; t <= end; t += step)
    ticks.push([t, step >= 86400000 ? format.day(t) : new Date(t).toLocaleTimeString('en-GB',
      { hour: '2-digit', minute: '2-digit', hour12: false, ...(step < 60000 && { second: '2-digit' }) })]);
  return ticks;
}

/* ---- a chart: title, unit, series [[key, name], ...], format; zero, log, clock: of its scale
 *
 * data: { time: [ms], series: { key: [number or null] }, step, begin, end, outages: [[from, to]] } */

const HEIGHT = 168, LEFT = 52, RIGHT = 10, TOP = 8, BOTTOM = 20;

class Chart {
  constructor(spec, onHover) {
    this.spec = spec;
    this.onHover = onHover;
    this.when = make('small', {}, spec.unit);
    this.values = spec.series.map(() => make('b', {}, NOTHING));
    this.svg = draw('svg', { role: 'img', tabindex: 0 });
    this.rows = make('div');
    this.more = make('details', {}, make('summary', {}, 'As a table'), this.rows);
    this.more.addEventListener('toggle', () => this.list());
    this.element = make('article', { class: 'chart' }, make('h2', {}, spec.title, this.when),
      make('ul', { class: 'legend' }, ...spec.series.map(([, name], i) => make('li', { class: 's' + i }, name + ' ', this.values[i]))),
      this.svg, this.more);
    this.svg.addEventListener('pointermove', event => this.point(event));
    this.svg.addEventListener('pointerdown', event => this.point(event));
    this.svg.addEventListener('pointerleave', () => this.onHover(null));
    this.svg.addEventListener('blur', () => this.onHover(null));
    this.svg.addEventListener('keydown', event => this.key(event));
  }

  point(event) {
    if (!this.data || !this.data.time.length) return;
    const box = this.svg.getBoundingClientRect(), x = event.clientX - box.left;
    const time = this.data.begin + (x - LEFT) / (this.width - LEFT - RIGHT) * (this.data.end - this.data.begin);
    this.onHover(this.nearest(time));
  }

  key(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key], last = this.data ? this.data.time.length - 1 : -1;
    if (event.key === 'Escape') return this.onHover(null);
    if (!move || last < 0) return undefined;
    event.preventDefault();
    return this.onHover(Math.max(0, Math.min(last, (this.hovered === null ? last + (move < 0) : this.hovered) + move)));
  }

  nearest(time) {
    let best = 0;
    this.data.time.forEach((at, i) => { if (Math.abs(at - time) < Math.abs(this.data.time[best] - time)) best = i; });
    return best;
  }

  x(time) { return LEFT + (time - this.data.begin) / (this.data.end - this.data.begin) * (this.width - LEFT - RIGHT); }
  y(value) { return TOP + (1 - this.scale.at(value)) * (HEIGHT - TOP - BOTTOM); }

  /* A line is broken where a step is missing or not known; a point alone is a dot. */
  line(values, i) {
    const { time, step } = this.data, dots = [];
    let path = '', run = 0, lastX = 0, lastY = 0;
    const end = () => { if (run === 1) dots.push([lastX, lastY]); run = 0; };
    values.forEach((value, at) => {
      const y = known(value) ? this.y(value) : NaN;
      if (!known(y)) return end();
      if (run && time[at] - time[at - 1] > 2.5 * step) end();
      [lastX, lastY] = [this.x(time[at]).toFixed(1), y.toFixed(1)];
      path += (run++ ? 'L' : 'M') + lastX + ' ' + lastY;
      return undefined;
    });
    end();
    return [draw('path', { class: 's' + i, d: path || 'M0 0' }), ...dots.map(([cx, cy]) => draw('circle', { class: 's' + i, cx, cy, r: 2 }))];
  }

  show(data) {
    this.data = data;
    this.hovered = null;
    this.width = Math.max(220, Math.round(this.svg.parentNode.clientWidth) - 24);
    const { spec, width } = this, lines = spec.series.map(([key]) => data.series[key] || []);
    this.scale = valueScale(spec, lines.flat());
    this.svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
    const parts = [];
    for (const [from, to] of data.outages) {
      const left = Math.max(LEFT, this.x(from)), right = Math.min(width - RIGHT, Math.max(this.x(to), this.x(from) + 2));
      if (right > left) parts.push(draw('rect', { class: 'outage', x: left, y: TOP, width: right - left, height: HEIGHT - TOP - BOTTOM }));
    }
    for (const value of this.scale.ticks) {
      const y = Math.round(this.y(value)) + 0.5;
      parts.push(draw('line', { class: 'grid', x1: LEFT, x2: width - RIGHT, y1: y, y2: y }));
      parts.push(draw('text', { x: LEFT - 6, y: y + 3.5, 'text-anchor': 'end' }, (spec.axis || spec.format)(value)));
    }
    for (const [time, text] of timeTicks(data.begin, data.end, width / 75)) {
      const x = this.x(time);
      if (x < LEFT + 12 || x > width - 22) continue;
      parts.push(draw('text', { x, y: HEIGHT - 4, 'text-anchor': 'middle' }, text));
    }
    parts.push(draw('line', { class: 'base', x1: LEFT, x2: width - RIGHT, y1: HEIGHT - BOTTOM + .5, y2: HEIGHT - BOTTOM + .5 }));
    const all = lines.flat().filter(known), why = !all.length ? spec.none || 'nothing yet' : spec.log && !all.some(Boolean) ? 'all are 0' : '';
    if (why) parts.push(draw('text', { x: (LEFT + width - RIGHT) / 2, y: HEIGHT / 2, 'text-anchor': 'middle' }, why));
    lines.forEach((values, i) => parts.push(...this.line(values, i)));
    this.marks = draw('g', {});
    this.svg.replaceChildren(...parts, this.marks);
    this.tell(null);
    this.list();
  }

  /* What stands at one point, or at the newest. */
  tell(index) {
    if (!this.data) return;
    this.hovered = index;
    const { time, series } = this.data, at = index === null ? time.length - 1 : index, marks = [];
    this.when.textContent = index === null ? this.spec.unit : format.time(time[at]);
    if (index !== null) marks.push(draw('line', { class: 'here', x1: this.x(time[at]), x2: this.x(time[at]), y1: TOP, y2: HEIGHT - BOTTOM }));
    const said = this.spec.series.map(([key, name], i) => {
      const value = (series[key] || [])[at], y = known(value) ? this.y(value) : NaN;
      this.values[i].textContent = this.spec.format(value);
      if (index !== null && known(y)) marks.push(draw('circle', { class: 's' + i, cx: this.x(time[at]), cy: y, r: 3 }));
      return name + ' ' + this.spec.format(value);
    });
    this.marks.replaceChildren(...marks);
    this.svg.setAttribute('aria-label', `${this.spec.title}, ${this.spec.unit}: ${said.join(', ')}. Arrow keys go back in time.`);
  }

  list() {
    if (!this.more.open || !this.data) return;
    const { time, series } = this.data, rows = [];
    for (let i = time.length - 1; i >= 0 && rows.length < 60; i--)
      rows.push([format.time(time[i]), ...this.spec.series.map(([key]) => this.spec.format((series[key] || [])[i]))]);
    this.rows.replaceChildren(table(this.spec.title, [['time', 'nowrap'], ...this.spec.series.map(([, name]) => [name, 'n'])], rows));
  }
}
