// Live pages. The server renders everything; this file asks for the page again when there is something new and changes
// only what differs, so that focus, scroll, open details and charts stay as they are.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const byId = (id) => document.getElementById(id);
  const store = (name, value) => { document.cookie = `${name}=${value}; path=/; max-age=31536000; samesite=lax`; };

  // ---- colours and charts ------------------------------------------------------------------------------------
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  let roles = new Map();

  function colour(role) { // "@blue/18" -> rgba(11, 95, 208, 0.18)
    if (!roles.has(role)) {
      const [name, share] = role.slice(1).split("/");
      probe.style.color = `var(--${name})`;
      const [r, g, b] = getComputedStyle(probe).color.match(/[\d.]+/g);
      roles.set(role, `rgba(${r}, ${g}, ${b}, ${share === undefined ? 1 : share / 100})`);
    }
    return roles.get(role);
  }

  function coloured(value) {
    if (typeof value === "string") return /^@[a-z]+(\/\d+)?$/.test(value) ? colour(value) : value;
    if (Array.isArray(value)) return value.map(coloured);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v)]));
    return value;
  }

  function axis(own) {
    const base = { gridcolor: "@grid", linecolor: "@axis", zerolinecolor: "@grid", tickcolor: "@axis", automargin: true, fixedrange: true };
    return { ...base, ...own };
  }

  const mouse = matchMedia("(pointer: fine)"); // a finger that is dragged scrolls the page
  if (mouse.matches) root.classList.add("drags");
  function zooms(plot) { return "zoom" in plot.dataset && mouse.matches; }

  function zoomed(change) { // the server draws what was dragged over: it knows turns that are not on the page
    const ends = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    if (ends.some((end) => end === undefined)) return;
    const [first, last] = ends.map((end) => (typeof end === "number" ? end : Date.parse(`${end.replace(" ", "T")}${end.length > 10 ? "Z" : ""}`)) / 1000);
    const wanted = new URLSearchParams({ range: `${Math.max(60, Math.round(last - first))}s`, to: `${new Date(Math.ceil(last) * 1000).toISOString().slice(0, 19)}Z` });
    visit(`${location.pathname}?${wanted}`);
  }

  const drawn = new Map(); // plot id -> JSON text that it shows
  function draw(force) {
    if (!window.Plotly) return;
    for (const plot of document.querySelectorAll(".plot")) {
      const source = byId(plot.dataset.figure);
      if (!source || (!force && drawn.get(plot.id) === source.textContent)) continue;
      const figure = JSON.parse(source.textContent);
      const narrow = plot.clientWidth < 520;
      const layout = {
        paper_bgcolor: "rgba(0, 0, 0, 0)", plot_bgcolor: "rgba(0, 0, 0, 0)",
        font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 12.5, color: "@muted" },
        margin: { l: 48, r: 12, t: 10, b: 36 }, hovermode: "x", dragmode: zooms(plot) ? "zoom" : false,
        hoverlabel: { bgcolor: "@card", bordercolor: "@axis", font: { color: "@text" } },
        legend: { orientation: "h", y: 1.03, yanchor: "bottom", x: 0, traceorder: "normal", font: { color: "@text", size: narrow ? 10.5 : 12.5 } },
        uirevision: "kept", ...figure.layout,
      };
      for (const name of Object.keys(layout)) if (/^[xy]axis\d*$/.test(name)) layout[name] = axis(narrow ? { ...layout[name], nticks: 5, tickangle: 0 } : layout[name]);
      if (narrow) for (const trace of figure.data) if (trace.meta === "minor") trace.showlegend = false;
      if (zooms(plot)) layout.xaxis.fixedrange = false;
      const isNew = !drawn.has(plot.id);
      if (isNew) plot.replaceChildren();
      drawn.set(plot.id, source.textContent);
      window.Plotly.react(plot, coloured(figure.data), coloured(layout), { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: false });
      if (isNew && zooms(plot)) plot.on("plotly_relayout", zoomed);
    }
  }

  function recolour() { roles = new Map(); draw(true); }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-set-theme]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    store("harmony_theme", link.dataset.setTheme);
    root.dataset.theme = link.dataset.setTheme;
    for (const other of link.parentElement.children) other.removeAttribute("aria-current");
    link.setAttribute("aria-current", "true");
    recolour();
  });

  // ---- changing only what differs ----------------------------------------------------------------------------
  function same(a, b) { return a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id || "") === (b.id || ""); }

  function attributes(from, to) {
    for (const { name } of [...from.attributes]) {
      if (!to.hasAttribute(name) && !(name === "open" && from.nodeName === "DETAILS")) from.removeAttribute(name);
    }
    for (const { name, value } of to.attributes) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  }

  function morph(from, to) {
    if (from.nodeType !== Node.ELEMENT_NODE) {
      if (from.nodeValue !== to.nodeValue) from.nodeValue = to.nodeValue;
      return;
    }
    if (from.hasAttribute("data-keep")) {
      if (to.hasAttribute("aria-label")) from.setAttribute("aria-label", to.getAttribute("aria-label"));
      return;
    }
    if (from.isEqualNode(to)) return;
    attributes(from, to);
    const named = new Map([...from.children].filter((c) => c.id).map((c) => [c.id, c]));
    let at = from.firstChild;
    for (const wanted of [...to.childNodes]) {
      let match = wanted.id && named.get(wanted.id);
      if (!match && at && same(at, wanted)) match = at;
      if (!match) { from.insertBefore(document.importNode(wanted, true), at); continue; }
      if (match === at) at = at.nextSibling; else from.insertBefore(match, at);
      morph(match, wanted);
    }
    while (at) { const next = at.nextSibling; at.remove(); at = next; }
  }

  function show(html, address) {
    const page = new DOMParser().parseFromString(html, "text/html");
    const fresh = page.getElementById("main");
    if (!fresh) { location.assign(address); return; }
    const focused = document.activeElement;
    document.title = page.title;
    morph(byId("main"), fresh);
    if (focused && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
    took = performance.now();
    draw(false);
    tick();
    document.dispatchEvent(new Event("harmony:shown"));
  }

  // ---- connection --------------------------------------------------------------------------------------------
  const live = byId("live");
  const SILENT_MS = 20000; // after so long without news, ask whether the server is still there
  const GAP_MS = 900; // between two questions
  const POLL_MS = 5000;
  let took = performance.now(); // when the figures on the page were fetched
  let heard = performance.now();
  let stream = null, asking = null, again = false, state = "", polls = 0;

  function say(words, kind) {
    if (state === kind) return;
    state = kind;
    live.classList.remove("on", "lost", "paused");
    if (kind) live.classList.add(kind);
    byId("live-state").textContent = words;
  }

  function ago(seconds) {
    if (seconds < 120) return `${Math.round(seconds)} s`;
    return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toPrecision(2)} h`;
  }

  function tick() {
    const data = byId("data-age");
    if (!live || !data) return;
    if (data.dataset.ageS === "") { byId("live-age").textContent = "no data yet"; return; }
    const age = Math.max(0, Number(data.dataset.ageS) + (performance.now() - took) / 1000);
    const stale = age > Number(data.dataset.staleS);
    live.classList.toggle("stale", stale);
    byId("live-age").textContent = `${stale ? "stale: " : ""}as of ${ago(age)} ago`;
  }

  async function refresh(address) {
    if (asking) { if (!address) { again = true; return; } asking.abort(); }
    const mine = (asking = new AbortController());
    try {
      const answer = await fetch(address || location.href, { signal: mine.signal, headers: { "X-Requested-With": "harmony" }, cache: "no-store" });
      if (answer.redirected && new URL(answer.url).pathname === "/login") { location.assign(answer.url); return; }
      if (!answer.ok && answer.status !== 404) throw new Error(String(answer.status));
      const html = await answer.text();
      if (mine.signal.aborted) return;
      heard = performance.now();
      show(html, address || location.href);
    } catch (error) {
      if (error.name !== "AbortError") say("Connection lost", "lost");
    } finally {
      if (asking === mine) {
        asking = null;
        if (again) { again = false; refresh(); }
      }
    }
  }

  let planned = 0;
  function soon() { // refresh, but not more often than every GAP_MS
    if (planned) return;
    planned = setTimeout(() => { planned = 0; if (!document.hidden) refresh(); }, Math.max(0, GAP_MS - (performance.now() - took)));
  }

  function connect() {
    if (stream || document.hidden) return;
    stream = new EventSource(live.dataset.source);
    stream.onopen = () => { heard = performance.now(); polls = 0; say("Live", "on"); };
    stream.addEventListener("fleet", (event) => {
      heard = performance.now();
      say("Live", "on");
      const news = JSON.parse(event.data);
      if (!live.dataset.service || [...news.changed, ...news.gone].includes(live.dataset.service)) soon();
    });
    stream.onerror = () => { say("Connection lost", "lost"); if (stream && stream.readyState === EventSource.CLOSED) disconnect(); };
  }

  function disconnect() { if (stream) { stream.close(); stream = null; } }

  function watch() { // once a second: age, silence, and polling where there is no stream
    tick();
    if (document.hidden) return;
    if (stream && stream.readyState === EventSource.OPEN && performance.now() - heard > SILENT_MS) { heard = performance.now(); refresh(); }
    if (!stream && performance.now() - heard > POLL_MS * Math.min(6, 1 + polls)) {
      polls += 1;
      heard = performance.now();
      refresh().then(() => { if (state !== "lost") say("Live, asking every few seconds", "on"); else if (polls % 2 === 0) state = "lost"; });
      connect();
    }
  }

  if (live) {
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) { disconnect(); say("Paused", "paused"); } else { refresh(); connect(); }
    });
    addEventListener("pagehide", disconnect);
    addEventListener("pageshow", (event) => { if (event.persisted) { refresh(); connect(); } });
    setInterval(watch, 1000);
    connect();
    tick();
  }

  // ---- sorting and filtering without a reload ----------------------------------------------------------------
  function visit(url, typed = false) { // what was clicked or dragged can be undone by Back; letters typed are no steps
    if (typed) history.replaceState(null, "", url); else history.pushState(null, "", url);
    refresh(url);
  }
  addEventListener("popstate", () => {
    if (!live) return;
    const asked = new URLSearchParams(location.search);
    const form = document.querySelector("form[data-live-filter]");
    if (form) for (const field of form.elements) if (field.name) field.value = asked.get(field.name) || "";
    refresh(location.href);
  });

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-live-link]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || !live) return;
    event.preventDefault();
    visit(link.href);
  });

  const filter = document.querySelector("form[data-live-filter]");
  if (filter) {
    let timer = 0;
    const apply = () => {
      const wanted = new URLSearchParams();
      for (const [name, value] of new FormData(filter)) if (value) wanted.set(name, value);
      visit(`${location.pathname}?${wanted}`, true);
    };
    filter.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(apply, 150); });
    filter.addEventListener("submit", (event) => { event.preventDefault(); apply(); });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.nodeName)) return;
      event.preventDefault();
      filter.elements.q.focus();
    });
  }

  // ---- what if -----------------------------------------------------------------------------------------------
  const form = byId("whatif");
  if (form) {
    let timer = 0, running = null, asked = 0, owed = false;
    const sliders = [...form.querySelectorAll("input[type=range]")];
    const value = (s) => (s.dataset.scale === "log" ? Number((10 ** Number(s.value)).toPrecision(2)) : Number(s.value));
    function percent(x, limit) { // with the digits that tell it from a limit, as `percent` in harmony/serving/words.py
      if (x === null || x === undefined) return "unknown";
      if (x > 0 && x < 1e-4) return "< 0.01 %";
      let digits = 2;
      const read = () => Number((100 * x).toPrecision(digits));
      while (limit !== undefined && digits < 7 && Math.abs(x - limit) > 1e-5 * limit && Math.sign(read() - Number((100 * limit).toPrecision(6))) !== Math.sign(x - limit)) digits += 1;
      return `${read()} %`;
    }
    const money = (x) => (x === null || x === undefined ? "unknown" : `${x.toFixed(2)} ${form.dataset.currency}`.trim());
    const written = { percent, money, count: String };
    const paths = Number(form.dataset.paths);
    const chance = (x, limit) => (x === 0 && paths ? `< ${percent(1 / paths)}` : percent(x, limit)); // on none of the paths is no 0
    const moved = () => sliders.filter((s) => s.dataset.moved);
    const figures = { // of a side, and what a replica costs on it
      replicas: (side) => String(side.replicas), violation_probability: (side) => chance(side.violation_probability, side.epsilon),
      bill: (side, hourly) => money(side.replicas * hourly), expected_cost: (side) => money(side.expected_cost), reason: (side) => side.reason,
    };
    const hourly = Number(form.dataset.hourly), gpus = Number(form.dataset.gpus);
    function hourlyThen() {
      const price = sliders.find((s) => s.name === "price_per_gpu_hour");
      return price && price.dataset.moved ? value(price) * gpus : hourly;
    }

    function label() {
      for (const s of sliders) {
        const text = written[s.dataset.form](s.dataset.moved ? value(s) : Number(s.dataset.now));
        s.nextElementSibling.textContent = text;
        s.setAttribute("aria-valuetext", text);
      }
    }
    async function ask() {
      if (running) running.abort();
      const mine = (running = new AbortController());
      asked = performance.now();
      owed = false;
      const said = byId("whatif-said");
      try {
        const body = Object.fromEntries(moved().map((s) => [s.name, value(s)]));
        const answer = await fetch(form.dataset.url, { method: "POST", signal: mine.signal, body: JSON.stringify(body), headers: { "Content-Type": "application/json", Accept: "application/json" } });
        const result = await answer.json();
        if (!answer.ok) throw new Error(result.detail || result.title || String(answer.status));
        const [before, after] = [result.old, result.new];
        byId("whatif-at").textContent = result.at ? `${result.at.slice(11, 19)} UTC` : "";
        for (const cell of form.querySelectorAll("[data-new]")) {
          const [now, then] = [figures[cell.dataset.new](before, hourly), figures[cell.dataset.new](after, hourlyThen())];
          form.querySelector(`[data-old=${cell.dataset.new}]`).textContent = now;
          cell.textContent = then;
          cell.classList.toggle("changed", now !== then);
        }
        const words = !moved().length ? "These are the service's own settings." : before.replicas === after.replicas
          ? `Still ${after.replicas} replicas.` : `${after.replicas} replicas instead of ${before.replicas}.`;
        if (said.textContent !== words) said.textContent = words;
      } catch (error) {
        if (error.name !== "AbortError") said.textContent = `No answer: ${error.message}`;
      } finally {
        if (running === mine) { running = null; if (owed) news(); }
      }
    }
    const soon = () => { clearTimeout(timer); timer = setTimeout(ask, 120); };
    let waiting = 0;
    function news() { // ask about the turn that is shown, soon and not too often; what is skipped is made up for
      owed = true;
      if (waiting || running) return;
      waiting = setTimeout(() => { waiting = 0; if (running) return; if (!document.hidden) ask(); }, Math.max(0, GAP_MS - (performance.now() - asked)));
    }
    form.addEventListener("input", (event) => { event.target.dataset.moved = "1"; label(); soon(); });
    form.addEventListener("reset", () => setTimeout(() => { for (const s of sliders) delete s.dataset.moved; label(); soon(); }));
    form.addEventListener("submit", (event) => event.preventDefault());
    document.addEventListener("harmony:shown", news);
    label();
    ask();
  }

  if (window.Plotly) draw(false); else addEventListener("load", () => draw(false)); // plotly.js is large and comes later
})();
