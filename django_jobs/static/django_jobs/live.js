"use strict";
/* Keeps the regions of a page fresh, lets relative times pass, and takes keys. Load it as a module.

   <div data-jobs-live="URL" data-jobs-interval="5" data-jobs-etag="…">  its inner HTML, from URL; 304 if unchanged
   data-jobs-final anywhere inside: it changes no more, and is asked for no more
   <p role="status" data-jobs-status data-jobs-updated="Updated {ago}" data-jobs-paused="…{ago}"
      data-jobs-reconnecting="Reconnecting… last updated {ago}" data-jobs-signed-out="…" data-jobs-gone="…">
   <time datetime="…" data-jobs-ago>
   <button hidden data-jobs-copy="Copied">  copies the <pre> of its section, and says so
   <label data-jobs-tick-all hidden><input type="checkbox">…</label> in a form with rows to tick
   data-jobs-key="…" on rows, data-jobs-go="d" on links, data-jobs-search, data-jobs-help on a dialog,
   data-jobs-shortcuts="off" anywhere. */

const MOST_SECONDS = 120; // Between two tries while the server is away.
const PATIENCE_SECONDS = 20; // For one answer.
const states = new WeakMap(); // What is known of a region.
let timer, stopped, paused, told, skew = 0; // skew: the server's clock less ours, in milliseconds.

const all = (selector) => [...document.querySelectorAll(selector)];
const regions = () => all("[data-jobs-live]");
const interval = (region) => Number.parseFloat(region.dataset.jobsInterval) || 0; // "off" is 0.
const now = () => Date.now() + skew;
const jittered = (seconds) => Date.now() + seconds * 1000 * (0.9 + Math.random() * 0.2);

function stateOf(region) {
  if (!states.has(region)) {
    const { jobsEtag: etag } = region.dataset;
    states.set(region, { etag, due: jittered(interval(region)), at: now(), failures: 0 });
  }
  return states.get(region);
}

// One timer for all of the page; it rests while nobody looks.
function tick() {
  clearTimeout(timer);
  if (document.hidden) return;
  all("time[data-jobs-ago]").forEach(letPass);
  for (const region of regions()) {
    const state = stateOf(region);
    const isFinal = state.isGone || region.querySelector("[data-jobs-final]");
    if (interval(region) && !paused && !isFinal && state.due <= Date.now()) refresh(region);
  }
  timer = setTimeout(tick, 1000);
}

async function refresh(region) {
  const state = stateOf(region);
  if (stopped || state.isAsking) return;
  state.isAsking = true;
  try {
    const answer = await fetch(region.dataset.jobsLive, {
      headers: { "X-Requested-With": "XMLHttpRequest", ...(state.etag && { "If-None-Match": state.etag }) },
      cache: "no-store",
      redirect: "manual", // To the login, if anywhere.
      signal: AbortSignal.timeout(PATIENCE_SECONDS * 1000),
    });
    if (answer.type === "opaqueredirect" || answer.status === 401 || answer.status === 403) return stop();
    state.isGone = answer.status === 404 || answer.status === 410;
    if (answer.status !== 304 && !state.isGone) {
      if (!answer.ok) throw new Error(answer.status);
      const html = await answer.text();
      if (/^\s*<(!doctype|html)/i.test(html)) return stop(); // A whole page is not a region.
      const wanted = document.createElement("template");
      wanted.innerHTML = html;
      // What was held back is asked for again, so the next answer must not be "unchanged".
      state.etag = fit(region, wanted.content) ? answer.headers.get("ETag") : "";
      all("[data-jobs-tick-all]").forEach(tellTicks);
    }
    skew = Date.parse(answer.headers.get("Date")) - Date.now() || skew;
    state.at = now();
    state.failures = 0;
    region.classList.toggle("jobs-stale", state.isGone);
  } catch (error) {
    console.warn(error);
    state.failures += 1;
    region.classList.add("jobs-stale");
  } finally {
    state.isAsking = false;
    const pause = (interval(region) || 1) * 2 ** Math.min(state.failures, 10);
    state.due = jittered(state.failures ? Math.min(pause, MOST_SECONDS) : interval(region));
  }
  const known = regions().map(stateOf);
  const failing = known.filter((each) => each.failures);
  const fine = known.some((each) => each.isGone) ? "jobsGone" : paused ? "jobsPaused" : "jobsUpdated";
  say(failing.length ? "jobsReconnecting" : fine, Math.min(...failing.map((each) => each.at), now()));
  all("time[data-jobs-ago]").forEach(letPass);
}

function stop() {
  stopped = true;
  regions().forEach((region) => region.classList.add("jobs-stale"));
  say("jobsSignedOut", now());
}

// Read out when it changes its meaning only; the passing seconds are hidden from screen readers.
function say(what, at) {
  const line = document.querySelector("[data-jobs-status]");
  if (!line?.dataset[what] || (stopped && what !== "jobsSignedOut")) return;
  if (what !== told) {
    told = what;
    const [before, after] = line.dataset[what].split("{ago}");
    line.replaceChildren(before);
    line.toggleAttribute("data-jobs-trouble", what !== "jobsUpdated");
    if (after === undefined) return;
    line.append(document.createElement("time"), after);
    line.children[0].dataset.jobsAgo = "";
    line.children[0].ariaHidden = "true";
  }
  if (line.children[0]) line.children[0].dateTime = new Date(at).toISOString();
}

function letPass(time) {
  const seconds = Math.round((Date.parse(time.dateTime) - now()) / 1000);
  if (Number.isNaN(seconds)) return;
  const [unit, size] = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]]
    .find(([, size]) => Math.abs(seconds) >= size) || ["second", 1];
  const form = new Intl.RelativeTimeFormat(document.documentElement.lang || "en", { style: "short" });
  const text = form.format(Math.trunc(seconds / size) || -0, unit);
  if (text !== time.textContent && !isHeld(time)) time.textContent = text;
}

// Make an element's inside look as wanted; return false if something in use was left as it is.
function fit(parent, wanted) {
  let isWhole = true;
  const olds = [...parent.childNodes];
  const used = new Set();
  let at = parent.firstChild;
  for (const node of [...wanted.childNodes]) {
    const old = olds.find((each) => !used.has(each) && isSame(each, node));
    if (!old) {
      parent.insertBefore(document.importNode(node, true), at);
      continue;
    }
    used.add(old);
    if (!old.isEqualNode(node)) isWhole = become(old, node) && isWhole;
    if (old === at) at = at.nextSibling;
    else if (!isHeld(old)) parent.insertBefore(old, at); // Moving it would take its focus.
    else if (at && at.compareDocumentPosition(old) & Node.DOCUMENT_POSITION_FOLLOWING) at = old.nextSibling;
  }
  for (const old of olds.filter((each) => !used.has(each))) {
    if (isHeld(old) || isTicked(old)) isWhole = false;
    else old.remove();
  }
  return isWhole;
}

function become(old, node) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (isHeld(old)) return false;
    old.nodeValue = node.nodeValue;
    return true;
  }
  if (isHeldItself(old)) return false;
  for (const { name } of [...old.attributes]) {
    if (!node.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of node.attributes) {
    if (old.getAttribute(name) !== value && name !== "open") old.setAttribute(name, value);
  }
  return fit(old, node);
}

// What a user has focused, selected or unfolded, and what holds such a thing.
function isHeldItself(node) {
  return node === document.activeElement || node.matches("details[open]");
}

function isHeld(node) {
  const selection = getSelection();
  if (!selection.isCollapsed && selection.containsNode(node, true)) return true;
  if (node.nodeType !== Node.ELEMENT_NODE) return false;
  return node.contains(document.activeElement) || isHeldItself(node) || !!node.querySelector("details[open]");
}

// A ticked row may be moved and changed, but does not go away with its tick.
function isTicked(node) {
  if (node.nodeType !== Node.ELEMENT_NODE) return false;
  return node.matches("input:checked") || !!node.querySelector("input:checked");
}

// A tick must never pass on to another row: boxes are told apart by what they stand for.
function isSame(old, node) {
  return old.nodeName === node.nodeName && keyOf(old) === keyOf(node);
}

function keyOf(node) {
  if (node.nodeType !== Node.ELEMENT_NODE) return "";
  return node.dataset.jobsKey || node.id || (node.nodeName === "INPUT" ? `${node.name}=${node.defaultValue}` : "");
}

// One box that ticks all rows of its form, and tells whether all of them, or some, are ticked.
const rowBoxes = (label) => [...label.closest("form").querySelectorAll("tbody input[type=checkbox]")];

function tellTicks(label) {
  const [box, boxes] = [label.querySelector("input"), rowBoxes(label)];
  const ticked = boxes.filter((each) => each.checked).length;
  box.checked = ticked > 0 && ticked === boxes.length;
  box.indeterminate = ticked > 0 && !box.checked;
}

for (const label of all("[data-jobs-tick-all]")) {
  label.hidden = false;
  tellTicks(label);
  label.closest("form").addEventListener("change", ({ target }) => {
    if (label.contains(target)) rowBoxes(label).forEach((each) => { each.checked = target.checked; });
    tellTicks(label);
  });
}

// Keys. Rows are walked by focusing their link, so that Enter opens it, and Tab goes on from there.
const ROWS = ".jobs-table tbody tr, #result_list tbody tr";
const currentRow = () => document.activeElement?.closest(ROWS);
const keys = {
  "/": () => document.querySelector("[data-jobs-search], #searchbar")?.focus(),
  "?": () => document.querySelector("dialog[data-jobs-help]")?.showModal(),
  r: () => regions().forEach(refresh),
  p: pause,
  j: () => walk(1),
  k: () => walk(-1),
  x: () => currentRow()?.querySelector("input[type=checkbox]")?.click(),
};
let goUntil = 0;

function walk(step) {
  const list = all(ROWS);
  const row = list[Math.max(0, Math.min(list.indexOf(currentRow()) + step, list.length - 1))];
  if (!row) return;
  const target = row.querySelector("th a[href], a[href]") || row;
  if (target === row) row.tabIndex = -1;
  target.focus();
}

function pause() {
  paused = !paused;
  if (!paused) return regions().forEach(refresh);
  say("jobsPaused", Math.min(...regions().map((region) => stateOf(region).at)));
  all("time[data-jobs-ago]").forEach(letPass);
}

function isTyping(target) {
  return target.isContentEditable || target.matches?.(
    "textarea, select, input:not([type=checkbox], [type=radio], [type=button], [type=submit])");
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.altKey || event.metaKey) return;
  if (isTyping(event.target) || document.querySelector("[data-jobs-shortcuts=off], dialog[open]")) return;
  const link = goUntil > Date.now() && document.querySelector(`a[data-jobs-go="${CSS.escape(event.key)}"]`);
  goUntil = event.key === "g" ? Date.now() + 1500 : 0;
  const act = link ? () => link.click() : Object.hasOwn(keys, event.key) && keys[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

for (const button of all("[data-jobs-copy]")) {
  button.hidden = !navigator.clipboard; // Browsers have it for pages that came by HTTPS.
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.closest("section").querySelector("pre").textContent);
    button.textContent = button.dataset.jobsCopy;
  });
}

document.addEventListener("visibilitychange", () => {
  for (const region of regions()) stateOf(region).due = 0;
  tick();
});
tick();
