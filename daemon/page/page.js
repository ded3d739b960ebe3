/* The status page: asks /status and /readyz every two seconds and /history every five, and shows what they say. */
'use strict';

const POLL = 2000, HISTORY = 5000, PATIENCE = 8000;
const SPANS = [['1h', 'Hour'], ['6h', '6 hours'], ['24h', 'Day'], ['7d', 'Week']];
const USERS = [['all', 'all users'], ['new', 'new'], ['old', 'old']];
const users = stem => USERS.map(([key, name]) => [stem + key, name]);

const CHARTS = [
  { title: 'Throughput', unit: 'a second', format: format.amount, zero: true,
    series: [['events_per_second', 'records read'], ['examples_per_second', 'examples learned'], ['new_examples_per_second', 'of new users']] },
  { title: 'Behind the stream', unit: 'time', format: format.seconds, axis: format.mark, zero: true, clock: true, none: 'no event yet',
    series: [['event_lag_seconds', 'newest event joined'], ['freshness_seconds', 'what readers have']] },
  { title: 'AUC', unit: 'over the window', format: format.ratio, axis: value => digits(value, 4), series: users('auc_') },
  { title: 'Log loss', unit: 'over the window', format: format.ratio, axis: value => digits(value, 4), series: users('log_loss_') },
  { title: 'Ranking tower', unit: 'loss of the last step', format: format.loss, axis: value => digits(value, 4),
    series: [['loss_ranking', 'cross entropy']] },
  { title: 'Zero-shot tower', unit: 'losses of the last step, log scale', format: format.loss, log: true,
    axis: value => value >= 1e-3 && value < 1e4 ? digits(value, 3) : value.toExponential(0), none: 'no loss of it yet',
    series: [['loss_reconstruct_user', 'user'], ['loss_reconstruct_behavior', 'behavior'], ['loss_mmd', 'MMD']] },
  { title: 'Join outcomes', unit: 'a second', format: format.amount, zero: true,
    series: ['matched', 'expired', 'late', 'duplicate', 'orphan'].map(name => [name + '_per_second', name]) },
  { title: 'Waiting', unit: 'records', format: format.amount, zero: true, least: 10,
    series: [['consumer_lag', 'to be read'], ['join_pending', 'for their click']] },
  { title: 'Unusable records, deltas', unit: 'a second', format: format.amount, zero: true,
    series: [['rejected_per_second', 'unusable'], ['deltas_per_second', 'deltas sent']] },
];

const place = id => document.getElementById(id);
const charts = CHARTS.map(spec => new Chart(spec, index => charts.forEach(chart => chart.tell(index))));
place('charts').append(...charts.map(chart => chart.element));

/* Points of one span, as asked so far; happenings as last told. */
let history = null, status = null, lastAnswer = null, historyDue = 0;

function chosenSpan() {
  const named = location.hash.slice(1);
  if (SPANS.some(([key]) => key === named)) return named;
  return status && status.uptime > 5400 ? '6h' : '1h';
}

/* ---- asking */

async function ask(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(PATIENCE), cache: 'no-store' });
  if (!answer.ok && path !== '/readyz') throw new Error(path + ': ' + answer.status);
  return answer.json();
}

async function askHistory() {
  const span = chosenSpan(), goOn = history && history.span === span && history.started === status.started;
  const from = goOn && history.time.length ? history.time[history.time.length - 1] : 0;
  const more = await ask(`/history?span=${span}&from=${from}`);
  if (!goOn) history = { span, started: status.started, time: [], series: {} };
  const keep = history.time.findIndex(time => more.time.length && time >= more.time[0]);
  const kept = keep < 0 ? history.time.length : keep, drop = Math.max(0, kept + more.time.length - more.points - 1);
  const joined = (mine, theirs) => [...mine.slice(drop, kept), ...theirs];
  for (const key of Object.keys(more.series)) history.series[key] = joined(history.series[key] || [], more.series[key]);
  history.time = joined(history.time, more.time);
  Object.assign(history, { step: more.step, points: more.points, now: more.now, snapshots: more.snapshots, versions: more.versions,
    outages: more.outages });
}

async function poll() {
  let ready = null;
  try {
    if (document.hidden) return;
    [status, ready] = await Promise.all([ask('/status'), ask('/readyz')]);
    if (Date.now() >= historyDue || !history || history.started !== status.started) {
      await askHistory();
      historyDue = Date.now() + HISTORY - 500;
      showCharts();
    }
    lastAnswer = Date.now();
    show(ready);
  } catch (error) {
    lost(error);
  } finally {
    setTimeout(poll, POLL);
  }
}

/* ---- what stands at the top */

/* What the daemon knows to be wrong, those first that keep it from being ready; then what only numbers over time tell. */
function problemsOf(ready) {
  const bad = (ready.reasons || []).map(String), { zero_shot: zeroShot, events } = status;
  const warn = (status.problems || []).map(String).filter(text => !bad.includes(text));
  if (status.nonfinite_skipped)
    warn.push(`${format.count(status.nonfinite_skipped)} batches skipped, as loss or gradients were not finite: see aside/ in the snapshot's directory`);
  if (zeroShot && zeroShot.note && zeroShot.note.includes('although')) warn.push(`zero-shot tower ${zeroShot.note}`);
  const last = key => history && history.series[key] ? history.series[key][history.series[key].length - 1] : null;
  if (last('rejected_per_second') > 0.01 * last('events_per_second') + 0.01) {
    const worst = Object.entries(events).filter(([name]) => name !== 'ok' && name !== 'empty').sort((a, b) => b[1] - a[1])[0];
    warn.push(`${format.amount(last('rejected_per_second'))} records a second can't be used, most of all so far: ${worst[0].replace(/_/g, ' ')}; they are in the topics .dlq`);
  }
  return { bad, warn };
}

function showProblems(ready) {
  const { bad, warn } = problemsOf(ready);
  const line = kind => text => make('p', { class: kind }, text);
  const lines = [...bad.map(line('problem')), ...warn.map(line('problem warn'))], text = lines.map(node => node.textContent).join('\n');
  if (place('problems').dataset.text === text) return;        /* said once, not every two seconds, by a screen reader */
  place('problems').dataset.text = text;
  place('problems').replaceChildren(...lines);
}

function setState(kind, text) {
  const state = place('state');
  if (state.textContent !== text) state.textContent = text;
  state.dataset.state = kind;
  document.body.classList.toggle('lost', kind === 'lost');
  document.title = (kind === 'ready' ? '' : text + ' – ') + 'Coldstream';
}

function lost(error) {
  setState('lost', lastAnswer ? 'no answer since ' + format.time(lastAnswer) : 'no answer from the daemon');
  const last = lastAnswer ? ` What is shown is what it said last, at ${format.time(lastAnswer)}.` : '';
  if (!document.querySelector('#problems .gone'))
    place('problems').prepend(make('p', { class: 'problem gone' }, `The daemon does not answer: does it run, is the way to it open?${last}`));
  place('problems').dataset.text = NOTHING;       /* what it says next is said anew */
  place('asked').textContent = `No answer (${error.message}), asking again every ${POLL / 1000} s.`;
}

function tile(name, value, unit, note) {
  return make('div', { class: 'tile' }, make('h2', {}, name), make('p', { class: 'big' }, value, unit ? make('small', {}, unit) : null),
    make('p', { class: 'soft' }, note));
}

function ago(ms) {
  return known(ms) ? since(ms) + ' ago' : NOTHING;
}

function since(ms) {
  return format.seconds(Math.max(0, Math.round((Date.now() - ms) / 1000)));
}

function showTiles() {
  const { metrics, snapshot, checkpoint, deltas, lag } = status;
  const last = key => history.series[key] && history.series[key].length ? history.series[key][history.series[key].length - 1] : null;
  const groups = key => ['new', 'old'].map(name => `${name}\u00a0${format.ratio(metrics[name].window[key])}`).join(' · ');
  const caughtUp = status.idle && status.lag === 0;
  const version = checkpoint.version ? `version ${checkpoint.version}` : 'nothing published yet';
  place('tiles').replaceChildren(
    tile('Learning', format.amount(status.rate.examples_per_second), 'examples/s', `${format.count(status.examples.all)} in all`),
    tile('Behind the stream', caughtUp ? 'caught up' : format.seconds(status.event_lag_seconds), '', lag === null ? 'ends of partitions not known' : `${format.count(lag)} records to be read` + (status.connected ? '' : ', when last seen')),
    tile('AUC', format.ratio(metrics.all.window.auc), '', groups('auc')),
    tile('Log loss', format.ratio(metrics.all.window.log_loss), '', groups('log_loss')),
    deltas ? tile('Readers get it after', format.seconds(deltas.sent ? deltas.freshness_seconds : null), '', `delta ${deltas.sequence}, ${ago(deltas.last)}`)
      : tile('Readers are behind by', format.seconds(last('freshness_seconds')), '', version + (known(checkpoint.last) ? ', ' + ago(checkpoint.last) : '')),
    tile('Last snapshot', known(snapshot.last) ? since(snapshot.last) : NOTHING, known(snapshot.last) ? 'ago' : '', snapshot.last ? `${format.seconds(snapshot.seconds)}, ${format.bytes(snapshot.bytes)}` : 'none yet'));
}

function showSpans() {
  const chosen = chosenSpan(), zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (place('spans').dataset.chosen === chosen) return;
  place('spans').dataset.chosen = chosen;
  place('spans').replaceChildren(...SPANS.map(([key, name]) => make('a', { href: '#' + key, ...(key === chosen && { 'aria-current': 'true' }) }, name)),
    make('span', {}, `times in ${zone}; since this start`));
}

function showCharts() {
  showSpans();
  if (!history) return;
  const { time, step, points, now } = history, end = Math.max(now, time.length ? time[time.length - 1] + 1 : 0);
  const begin = Math.max(end - points * step, Math.min(time.length ? time[0] : end, end - 24 * step));
  const outages = history.outages.map(outage => [outage.time, outage.until ?? end]);
  const focused = charts.find(chart => chart.hovered !== null && chart.hovered !== undefined);
  if (focused && focused.data && focused.data.step === step) return;      /* not under the reader's finger */
  for (const chart of charts) chart.show({ time, series: history.series, step, begin, end, outages });
}

/* ---- details */

function card(title, ...content) {
  return make('section', { class: 'card' }, make('h2', {}, title), ...content);
}

/* Scrolled places and what is selected live on where nothing changed. */
const shown = new Map();
function put(key, makeCard, data) {
  const text = JSON.stringify(data), old = shown.get(key);
  if (old && old.text === text) return;
  const node = makeCard(), scroll = old && old.node.querySelector('.scroll'), now = node.querySelector('.scroll');
  const top = scroll ? scroll.scrollTop : 0;
  if (old) old.node.replaceWith(node);
  else place('tables').append(node);
  if (now) now.scrollTop = top;
  shown.set(key, { text, node });
}

function quality(title, metrics) {
  const rows = [];
  for (const [key, name] of USERS)
    for (const [span, words] of [['window', 'window'], ['start', 'all time']]) {
      const one = metrics[key][span];
      if (one.examples) rows.push([`${name}, ${words}`, format.ratio(one.auc), format.ratio(one.gauc), format.ratio(one.log_loss),
        format.ratio(one.calibration), format.count(one.examples), format.count(one.clicks)]);
    }
  return card(title, rows.length ? table(title, [['users', 'nowrap'], ['AUC', 'n'], ['GAUC', 'n'], ['log loss', 'n'], ['calibration', 'n'],
    ['examples', 'n'], ['clicks', 'n']], rows) : make('p', { class: 'soft' }, 'No example has been judged yet.'));
}

function countsOf(title, heading, entries) {
  return card(title, table(title, [[heading], ['', 'n']], entries.map(([name, value]) =>
    [name.replace(/_/g, ' '), typeof value === 'boolean' ? (value ? 'yes' : 'no') : format.count(value)])));
}

function snapshots() {
  const rows = history.snapshots.map(one => Object.assign([format.time(one.time), one.number ?? NOTHING, format.seconds(one.seconds),
    format.seconds(one.stall_seconds), one.ok ? format.bytes(one.bytes) : NOTHING, one.ok ? 'ok' : one.text], { bad: !one.ok }));
  return card('Snapshots', rows.length ? table('Snapshots', [['time', 'nowrap'], ['cut', 'n'], ['took', 'n'], ['held up learning', 'n'], ['written', 'n'], ['', 'why']], rows)
    : make('p', { class: 'soft' }, 'None since this start.'),
    make('p', { class: 'soft' }, `${format.count(status.snapshot.committed)} committed, ${format.count(status.snapshot.failures)} failed; ${format.bytes(status.snapshot.disk_bytes)} on disk in ${status.snapshot.directory}`));
}

function versions() {
  const { checkpoint, deltas } = status;
  const rows = history.versions.map(one => Object.assign([format.time(one.time), one.number ?? NOTHING, format.seconds(one.seconds),
    format.seconds(one.freshness_seconds), one.ok ? 'published' : one.text], { bad: !one.ok }));
  const pinned = (checkpoint.pinned || []).length ? `; pinned: ${checkpoint.pinned.join(', ')}` : '';
  return card('Versions', rows.length ? table('Versions', [['time', 'nowrap'], ['version', 'n'], ['took', 'n'], ['behind', 'n'], ['', 'why']], rows)
    : make('p', { class: 'soft' }, 'None since this start.'),
    make('p', { class: 'soft' }, `${format.count(checkpoint.published)} published, ${format.count(checkpoint.gate ? checkpoint.gate.refused : 0)} refused, ${format.count(checkpoint.failures)} failed; in ${checkpoint.directory}${pinned}`),
    deltas ? make('p', { class: 'soft' }, `Deltas to ${deltas.topic}: ${format.count(deltas.sent)} sent, ${format.count(deltas.failures)} failed; the newest ${format.count(deltas.rows)} rows, ${format.bytes(deltas.bytes)}, acknowledged after ${format.seconds(deltas.seconds)}`) : null);
}

function outages() {
  const rows = history.outages.map(one => [format.time(one.time), one.until ? format.seconds((one.until - one.time) / 1000) : 'lasts', one.text]);
  return card('When it was not ready', rows.length ? table('When it was not ready', [['since', 'nowrap'], ['for', 'nowrap'], ['why', 'why']], rows)
    : make('p', { class: 'soft' }, 'Never since this start.'));
}

function showTables() {
  const { sources, join, events, tables, memory } = status;
  put('quality', () => quality('Quality', status.metrics), status.metrics);
  put('delayed', () => quality('Quality of the scores when shown', status.delayed_metrics), status.delayed_metrics);
  put('versions', versions, [history.versions, status.checkpoint, status.deltas]);
  put('snapshots', snapshots, [history.snapshots, status.snapshot]);
  put('outages', outages, history.outages);
  put('sources', () => card('Partitions', table('Partitions', [['topic'], ['partition', 'n'], ['next', 'n'], ['end', 'n'], ['lag', 'n'], ['']],
    sources.map(one => [one.topic, one.partition, format.count(one.next), format.count(one.end), format.count(one.lag), one.paused ? 'paused' : one.idle ? 'idle' : '']))), sources);
  put('join', () => countsOf('Join', 'outcome', Object.entries(join)), join);
  put('events', () => countsOf('Records', 'result', Object.entries(events)), events);
  put('tables', () => card('Embedding tables', table('Embedding tables', [['table'], ['rows', 'n'], ['made', 'n'], ['gone', 'n'], ['memory', 'n']],
    Object.entries(tables).map(([name, one]) => [name, format.count(one.rows), format.count(one.admitted), format.count(one.evicted), format.bytes(one.bytes)])),
    make('p', { class: 'soft' }, `Learner ${format.bytes(memory.learner)}, joiner ${format.bytes(memory.joiner)}`),
    make('p', { class: 'soft' }, `Zero-shot tower: ${status.zero_shot.kind}, ${status.zero_shot.note}`)), [tables, memory, status.zero_shot]);
}

function show(ready) {
  setState(ready.ready ? 'ready' : 'waiting', ready.ready ? (status.state === 'running' ? 'running' : status.state) : 'not ready');
  place('about').textContent = `version ${status.version} (${status.commit}) · up ${format.seconds(Math.floor(status.uptime))} · step ${format.count(status.steps)}`;
  place('asked').textContent = `Asked at ${format.time(lastAnswer)}, again every ${POLL / 1000} s.`;
  showProblems(ready);
  showTiles();
  showTables();
}

/* ---- events */

let resizing = 0;
window.addEventListener('resize', () => { clearTimeout(resizing); resizing = setTimeout(showCharts, 150); });
window.addEventListener('hashchange', () => { historyDue = 0; if (status) askHistory().then(showCharts, lost); });
showSpans();
poll();
