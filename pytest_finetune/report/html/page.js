"use strict";
// Every text of the run reaches the page through textContent alone.
(async () => {
  const PAGE = 50;
  const element = (id) => document.getElementById(id);
  const make = (tag, name = "", text = "") => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text) made.textContent = text;
    return made;
  };

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return (await new Response(stream).json()).flatMap((set, number) =>
      set.rows.map(([place, asked, reference, before, after, slice, was, is]) => ({
        set, number, place, asked, reference, before, after, slice, was, is,
        change: was === null ? 0 : is - was,
        result: was === null ? "" : is > was ? "won" : is < was ? "lost" : "tied",
        text: [place, asked, reference, before, after].join("\n").toLowerCase(),
      })));
  }

  let rows;
  try {
    rows = await unpack(element("packed").textContent);
  } catch {
    element("waiting").textContent = "This browser cannot unpack the examples; take a newer one.";
    return;
  }

  // --- words that differ: longest common subsequence ---------------------------------------

  const words = (text) => text.match(/\s+|[\p{L}\p{N}\p{M}_]+|[^]/gu) ?? [];

  function* differences(from, to) {
    let [a, b] = [words(from), words(to)];
    let start = 0;
    while (start < Math.min(a.length, b.length) && a[start] === b[start]) start++;
    let end = 0;
    while (end < Math.min(a.length, b.length) - start && a.at(-1 - end) === b.at(-1 - end)) end++;
    yield ["", a.slice(0, start)];
    const last = a.slice(a.length - end);
    [a, b] = [a.slice(start, a.length - end), b.slice(start, b.length - end)];
    if (a.length * b.length > 400_000) yield* [["del", a], ["ins", b]]; // too long to compare word by word
    else yield* compared(a, b);
    yield ["", last];
  }

  function* compared(a, b) {
    const width = b.length + 1;
    const common = new Uint16Array((a.length + 1) * width);
    for (let i = a.length - 1; i >= 0; i--)
      for (let j = b.length - 1; j >= 0; j--)
        common[i * width + j] = a[i] === b[j]
          ? common[(i + 1) * width + j + 1] + 1
          : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    let [i, j] = [0, 0];
    while (i < a.length || j < b.length)
      if (i < a.length && j < b.length && a[i] === b[j]) yield ["", [a[i++]], j++];
      else if (j === b.length || (i < a.length && common[(i + 1) * width + j] >= common[i * width + j + 1]))
        yield ["del", [a[i++]]];
      else yield ["ins", [b[j++]]];
  }

  function marked(from, to) {
    const runs = [];
    for (const [kind, some] of differences(from, to)) {
      if (!some.length) continue;
      if (runs.length && runs.at(-1)[0] === kind) runs.at(-1)[1] += some.join("");
      else runs.push([kind, some.join("")]);
    }
    return runs.map(([kind, text]) => (kind ? make(kind, "", text) : document.createTextNode(text)));
  }

  // --- the table ---------------------------------------------------------------------------

  const control = Object.fromEntries(
    ["search", "set", "slice", "order", "mark", "rows", "count", "page", "previous", "next"].map((id) => [id, element(id)]));
  let shown = [];
  let page = 0;

  function output(label, row, text, score, from) {
    const cell = make("td", "output");
    cell.dataset.label = label;
    if (score === null) return cell;
    const body = make("div", "text");
    body.append(...(from === null ? [document.createTextNode(text)] : marked(from, text)));
    const scored = make("span", "score", `${label} `);
    scored.append(make("strong", "", `${+score.toFixed(3)}`));
    cell.append(body, scored);
    return cell;
  }

  function drawn(row) {
    const line = make("tr", row.result);
    const head = make("td", "place");
    const open = make("button", "open", row.place);
    open.type = "button";
    open.setAttribute("aria-expanded", "false");
    head.append(open, make("span", `result ${row.result}`, row.result || "judged"));
    head.append(make("span", "set", `${row.set.suite} · ${row.set.on}${row.slice ? ` · ${row.slice}` : ""}`));
    line.append(head);
    for (const [label, text] of [["Input", row.asked], ["Reference", row.reference]]) {
      const cell = make("td");
      cell.dataset.label = label;
      cell.append(make("div", "text", text));
      line.append(cell);
    }
    const mark = control.mark.value;
    const from = mark === "reference" ? row.reference : null;
    line.append(output(row.set.before, row, row.before, row.was, from));
    line.append(output(row.set.after, row, row.after, row.is, mark === "before" && row.was !== null ? row.before : from));
    return line;
  }

  function draw() {
    const last = Math.max(Math.ceil(shown.length / PAGE) - 1, 0);
    page = Math.min(Math.max(page, 0), last);
    control.rows.replaceChildren(...shown.slice(page * PAGE, (page + 1) * PAGE).map(drawn));
    control.count.textContent = `${shown.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} examples`;
    control.page.textContent = `Page ${page + 1} of ${last + 1}`;
    control.previous.disabled = page === 0;
    control.next.disabled = page === last;
  }

  function filter() {
    const [text, set, slice] = [control.search.value.toLowerCase(), control.set.value, control.slice.value];
    const wanted = document.querySelector("[name=result]:checked").value;
    const found = rows.filter((row) =>
      (!set || String(row.number) === set) && (!slice || row.slice === slice) && row.text.includes(text));
    for (const count of document.querySelectorAll("[data-result]")) {
      const result = count.dataset.result;
      count.textContent = found.filter((row) => !result || row.result === result).length.toLocaleString("en");
    }
    shown = found.filter((row) => !wanted || row.result === wanted);
    const sign = { worst: 1, best: -1 }[control.order.value];
    if (sign) shown.sort((one, other) => sign * (one.change - other.change));
    page = 0;
    draw();
  }

  function toggle(button, wanted) {
    button.setAttribute("aria-expanded", String(wanted));
    button.closest("tr").classList.toggle("opened", wanted);
  }

  function move(by) {
    const buttons = [...control.rows.querySelectorAll("button")];
    const to = buttons.indexOf(document.activeElement) + by;
    if (to >= buttons.length && !control.next.disabled) turn(1, 0);
    else if (to < 0 && by < 0 && !control.previous.disabled) turn(-1, -1);
    else buttons.at(Math.max(Math.min(to, buttons.length - 1), 0))?.focus();
  }

  function turn(by, focused) {
    page += by;
    draw();
    [...control.rows.querySelectorAll("button")].at(focused)?.focus();
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = event.target;
    if (at.matches("input, select, textarea")) {
      if (event.key !== "Escape") return;
      if (at === control.search && at.value) { at.value = ""; filter(); } else at.blur();
      event.preventDefault();
      return;
    }
    const inside = control.rows.contains(at);
    const act = {
      "/": () => control.search.focus(),
      j: () => move(1),
      k: () => move(-1),
      ArrowDown: inside && (() => move(1)),
      ArrowUp: inside && (() => move(-1)),
      Escape: inside && (() => toggle(at.closest("tr").querySelector("button"), false)),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  control.rows.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) toggle(button, button.getAttribute("aria-expanded") !== "true");
  });
  element("filters").addEventListener("input", (event) => (event.target === control.mark ? draw() : filter()));
  element("filters").addEventListener("submit", (event) => event.preventDefault());
  control.previous.addEventListener("click", () => turn(-1, 0));
  control.next.addEventListener("click", () => turn(1, 0));

  const option = (select, value, text) => {
    const made = make("option", "", text);
    made.value = value;
    select.append(made);
  };
  new Map(rows.map((row) => [row.number, row.set])).forEach((set, number) =>
    option(control.set, number, `${set.suite} · ${set.on} (${set.metric})`));
  const slices = [...new Set(rows.map((row) => row.slice))].filter(Boolean).sort();
  slices.forEach((slice) => option(control.slice, slice, slice));
  control.slice.parentElement.hidden = !slices.length;
  filter();
  element("waiting").remove();
  element("browser").hidden = false;
})();
