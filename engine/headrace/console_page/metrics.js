// The Prometheus text format, as far as /metrics uses it, and what two scrapes say about the time between them.

const LINE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES = { n: "\n", '"': '"', "\\": "\\" };

// name -> [{labels, value}, ...]
export function parse(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : LINE.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(LABEL)) {
      labels[name] = value.replace(/\\(.)/g, (_, char) => ESCAPES[char] ?? char);
    }
    if (!found.has(match[1])) found.set(match[1], []);
    found.get(match[1]).push({ labels, value: Number(match[3].replace("Inf", "Infinity")) });
  }
  return found;
}

// The growth of a counter between two scrapes, by the value of a label. One that fell began anew.
export function growth(before, after, name, label, wanted = () => true) {
  const sums = (scrape) => {
    const result = new Map();
    for (const { labels, value } of scrape.get(name) ?? []) {
      if (wanted(labels)) result.set(labels[label], (result.get(labels[label]) ?? 0) + value);
    }
    return result;
  };
  const then = sums(before);
  const grown = new Map();
  for (const [key, value] of sums(after)) {
    const from = then.get(key) ?? 0;
    grown.set(key, value >= from ? value - from : value);
  }
  return grown;
}

// The growth of a histogram's buckets: label value -> [[bound, count up to it], ...], bounds ascending.
export function buckets(before, after, name, label) {
  const key = ({ labels }) => `${labels.le} ${labels[label]}`;
  const then = new Map((before.get(`${name}_bucket`) ?? []).map((sample) => [key(sample), sample.value]));
  const found = new Map();
  for (const sample of after.get(`${name}_bucket`) ?? []) {
    const of = sample.labels[label];
    if (!found.has(of)) found.set(of, []);
    const bound = sample.labels.le === "+Inf" ? Infinity : Number(sample.labels.le);
    const from = then.get(key(sample)) ?? 0;
    found.get(of).push([bound, sample.value >= from ? sample.value - from : sample.value]);
  }
  for (const list of found.values()) list.sort((a, b) => a[0] - b[0]);
  return found;
}

// All histograms of buckets() as one.
export function together(found) {
  const sums = new Map();
  for (const list of found.values()) for (const [bound, count] of list) sums.set(bound, (sums.get(bound) ?? 0) + count);
  return [...sums].sort((a, b) => a[0] - b[0]);
}

// The bound below which that share of the values lies, interpolated as Prometheus does; null without any.
export function quantile(list, share) {
  const total = list?.length ? list[list.length - 1][1] : 0;
  if (!total) return null;
  const wanted = share * total;
  let [low, below] = [0, 0];
  for (const [bound, count] of list) {
    if (count >= wanted) {
      if (bound === Infinity) return low;
      return count > below ? low + ((bound - low) * (wanted - below)) / (count - below) : bound;
    }
    [low, below] = [bound, count];
  }
  return low;
}
