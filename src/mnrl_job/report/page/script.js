"use strict";
// The table of queries: sorted, filtered and paged. Texts reach the page as textContent only.
{
  const PAGE = 25;
  const explorer = document.getElementById("explorer");
  const sources = [...document.querySelectorAll(".queries-data")];
  const parsed = new Map();
  const state = { set: 0, find: "", show: "all", key: "", down: true, page: 0 };

  function column(data, key) {
    const { before, after } = data;
    const columns = {
      query: () => data.query,
      rankBefore: () => before.rank,
      rankAfter: () => after.rank,
      before: () => before.value,
      after: () => after.value,
      change: () => after.value.map((value, at) => value - before.value[at]),
    };
    return columns[key]();
  }

  function current() {
    if (!parsed.has(state.set)) {
      const data = JSON.parse(sources[state.set].textContent);
      const texts = data.texts;
      const found = (at) => [data.relevant[at], data.before.top[at], data.after ? data.after.top[at] : data.relevant[at]];
      data.search = data.query.map((text, at) =>
        [text, ...found(at).map((number) => texts[number])].join("\n").replaceAll("\t", " ").toLowerCase());
      data.outcome = (data.after ? column(data, "change") : data.before.value).map((value) => {
        if (data.after) return value > 0 ? "won" : value < 0 ? "lost" : "tied";
        return value > 0 ? "won" : "lost";
      });
      parsed.set(state.set, data);
    }
    return parsed.get(state.set);
  }

  function chosen(data) {
    const words = state.find.toLowerCase();
    const rows = [];
    for (let at = 0; at < data.query.length; at += 1) {
      if (state.show !== "all" && data.outcome[at] !== state.show) continue;
      if (!words || data.search[at].includes(words)) rows.push(at);
    }
    const values = column(data, state.key);
    const compare = state.key === "query"
      ? new Intl.Collator("en", { numeric: true }).compare
      : (one, other) => one - other;
    const sign = state.down ? -1 : 1;
    return rows.sort((one, other) => sign * compare(values[one], values[other]) || one - other);
  }

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  const score = (value) => value.toFixed(3);
  const change = (value) => (value > 0 ? "+" : value < 0 ? "\u2212" : "") + Math.abs(value).toFixed(3);

  function entry(name, ...parts) {
    const pair = element("div");
    const text = element("dd");
    text.append(...parts);
    pair.append(element("dt", name), text);
    return pair;
  }

  // A document, whose title ends with a tab.
  function titled(text) {
    const [title, ...rest] = text.split("\t");
    return rest.length ? [element("b", title, "title"), ` ${rest.join(" ")}`] : [title];
  }

  function queryCell(data, at) {
    const cell = element("th");
    cell.scope = "row";
    const details = element("details");
    details.append(element("summary", data.query[at]));
    const list = element("dl");
    const relevant = data.texts[data.relevant[at]];
    if (relevant) list.append(entry("relevant", ...titled(relevant)));
    for (const [number, when] of ["before", "after"].entries()) {
      const placing = data[when];
      if (!placing) continue;
      const facts = `rank ${placing.rank[at].toLocaleString("en")}, cosine ${placing.score[at].toFixed(3)}`;
      const first = placing.rank[at] > 1 ? ["; first: ", ...titled(data.texts[placing.top[at]])] : [];
      list.append(entry(data.after ? data.labels[number] : "found", facts, ...first));
    }
    details.append(list);
    cell.append(details);
    return cell;
  }

  function row(data, at) {
    const made = element("tr");
    made.append(queryCell(data, at));
    if (data.after) {
      const tone = { won: "good", lost: "bad", tied: "tied" }[data.outcome[at]];
      made.append(element("td", change(data.after.value[at] - data.before.value[at]), `gain ${tone}`));
    }
    const numbers = [data.before.rank[at].toLocaleString("en")];
    if (data.after) numbers.push(data.after.rank[at].toLocaleString("en"));
    numbers.push(score(data.before.value[at]));
    if (data.after) numbers.push(score(data.after.value[at]));
    made.append(...numbers.map((text) => element("td", text)));
    return made;
  }

  function markSorted() {
    const heads = [...explorer.querySelectorAll("th[data-key]")];
    for (const head of heads) head.removeAttribute("aria-sort");
    const sorted = heads.find((head) => head.dataset.key === state.key);
    sorted.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    return sorted.textContent;
  }

  function show() {
    const data = current();
    const rows = chosen(data);
    const last = Math.max(0, Math.ceil(rows.length / PAGE) - 1);
    state.page = Math.min(state.page, last);
    const first = state.page * PAGE;
    const shown = rows.slice(first, first + PAGE);
    explorer.querySelector("tbody").replaceChildren(...shown.map((at) => row(data, at)));
    const by = markSorted();
    const total = data.query.length.toLocaleString("en");
    const range = `${first + 1}\u2013${first + shown.length} of ${rows.length.toLocaleString("en")}`;
    const filtered = rows.length < data.query.length ? ` (of ${total} in all)` : "";
    const told = `Queries ${range}${filtered}, by ${by}, ${state.down ? "falling" : "rising"}`;
    document.getElementById("status").textContent = rows.length ? told : "No query is like that.";
    document.getElementById("previous").disabled = state.page === 0;
    document.getElementById("next").disabled = state.page === last;
  }

  function count() {
    const data = current();
    for (const place of explorer.querySelectorAll("[data-count]")) {
      const kind = place.dataset.count;
      const number = kind === "all" ? data.outcome.length : data.outcome.filter((one) => one === kind).length;
      place.textContent = number.toLocaleString("en");
    }
  }

  function turn(news) {
    Object.assign(state, { page: 0 }, news);
    show();
  }

  function listen() {
    explorer.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    document.getElementById("find").addEventListener("input", (event) => turn({ find: event.target.value.trim() }));
    document.getElementById("set").addEventListener("change", (event) => {
      turn({ set: Number(event.target.value) });
      count();
    });
    for (const radio of explorer.querySelectorAll("input[name=show]")) {
      radio.addEventListener("change", () => turn({ show: radio.value }));
    }
    for (const head of explorer.querySelectorAll("th[data-key]")) {
      const key = head.dataset.key;
      const falls = key === "change" || key === "after";
      head.querySelector("button").addEventListener("click", () =>
        turn(key === state.key ? { down: !state.down } : { key, down: falls }));
    }
    document.getElementById("previous").addEventListener("click", () => turn({ page: state.page - 1 }));
    document.getElementById("next").addEventListener("click", () => turn({ page: state.page + 1 }));
  }

  // The values of a chart at the step under the pointer, or at that of a slider for keyboards and screen readers.
  function readable(plot) {
    const svg = plot.querySelector("svg");
    const steps = svg.dataset.steps.split(" ");
    const lines = [...svg.querySelectorAll("[data-values]")].map(({ dataset }) => [dataset.name, dataset.values.split(" ")]);
    if (!lines.length) return;
    const [left, right] = svg.dataset.x.split(" ").map(Number);
    const first = Number(steps[0]);
    const range = Number(steps.at(-1)) - first;
    const cursor = document.createElementNS(svg.namespaceURI, "path");
    cursor.setAttribute("class", "cursor");
    svg.append(cursor);
    const slider = Object.assign(element("input"), { type: "range", max: steps.length - 1, value: steps.length - 1 });
    slider.setAttribute("aria-label", `Step of ${svg.getAttribute("aria-label").split(". ")[0]}`);
    plot.append(slider);
    const read = () => {
      const at = Number(slider.value);
      const values = lines.map(([name, points]) => `${name} ${points[at]}`).join(", ");
      const text = `${svg.dataset.unit} ${Number(steps[at]).toLocaleString("en")}: ${values}`;
      plot.nextElementSibling.textContent = text;
      slider.setAttribute("aria-valuetext", text);
      cursor.setAttribute("d", `M${left + (Number(steps[at]) - first) / range * (right - left)} 10V184`);
    };
    const point = (event) => {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
      const step = first + (x - left) / (right - left) * range;
      const next = steps.findIndex((one) => Number(one) >= step);
      const at = next < 0 ? steps.length - 1 : next;
      slider.value = at && step - Number(steps[at - 1]) < Number(steps[at]) - step ? at - 1 : at;
      read();
    };
    for (const name of ["pointermove", "pointerdown"]) plot.addEventListener(name, point);
    for (const name of ["input", "focus"]) slider.addEventListener(name, read);
  }

  function copyable(block) {
    const button = element("button", "Copy");
    button.type = "button";
    button.addEventListener("click", () => {
      getSelection().selectAllChildren(block);
      button.textContent = document.execCommand("copy") ? "Copied" : "Selected";
    });
    block.after(button);
  }

  for (const plot of document.querySelectorAll(".plot")) readable(plot);
  for (const block of document.querySelectorAll(".copyable")) copyable(block);
  if (explorer && sources.length) {
    const compared = Boolean(current().after);
    Object.assign(state, { key: compared ? "change" : "before", down: compared });
    explorer.hidden = false;
    document.getElementById("no-script").hidden = true;
    listen();
    count();
    show();
  }
}
