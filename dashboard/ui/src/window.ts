/** What part of a list is in sight, in px. */
export interface Window {
  top: number;
  height: number;
}

/** Rows that are not in the document, as room. */
export interface Gap {
  key: string;
  rows: number;
}

/** Rows drawn above and below what is in sight. */
const margin = 10;

/**
 * span says what of a list of count rows goes into the document: the indices of
 * those in sight and around, that of the current row wherever it is (it may have
 * the focus), and gaps in place of the others.
 */
export function span(count: number, current: number, seen: Window, rowHeight: number): (number | Gap)[] {
  const first = Math.min(Math.max(0, Math.floor(seen.top / rowHeight) - margin), Math.max(0, count - 1));
  const end = Math.min(count, Math.ceil((seen.top + seen.height) / rowHeight) + margin);
  const drawn: number[] = [];
  if (current < first) drawn.push(current);
  for (let i = first; i < end; i++) drawn.push(i);
  if (current >= end && current < count) drawn.push(current);

  const parts: (number | Gap)[] = [];
  let next = 0;
  for (const i of drawn) {
    if (i > next) parts.push({ key: `gap-${parts.length}`, rows: i - next });
    parts.push(i);
    next = i + 1;
  }
  if (count > next) parts.push({ key: "gap-end", rows: count - next });
  return parts;
}

/** targetRow is where a key leads from the row at index; undefined when it is none of ours. */
export function targetRow(key: string, index: number, count: number, page: number): number | undefined {
  const to: Record<string, number> = {
    ArrowDown: index + 1,
    j: index + 1,
    ArrowUp: index - 1,
    k: index - 1,
    PageDown: index + page,
    PageUp: index - page,
    Home: 0,
    End: count - 1,
  };
  const target = to[key];
  return target === undefined ? undefined : Math.min(Math.max(target, 0), Math.max(0, count - 1));
}
