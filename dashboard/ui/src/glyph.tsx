import type { StatusKey } from "./status";

// Shapes differ, so that colour is never needed to tell them apart.
const shapes: Record<StatusKey, preact.JSX.Element> = {
  up: <circle cx="8" cy="8" r="5.5" />,
  degraded: <path d="M8 2 14.5 13.5H1.5Z" />,
  down: (
    <>
      <rect x="1.5" y="1.5" width="13" height="13" rx="1.5" />
      <path class="mark" d="M5 5l6 6M11 5l-6 6" />
    </>
  ),
  negotiating: (
    <>
      <circle class="ring" cx="8" cy="8" r="5.5" />
      <path d="M8 2.5a5.5 5.5 0 0 1 0 11Z" />
    </>
  ),
  stale: <circle class="ring dashed" cx="8" cy="8" r="5.5" />,
  unknown: <path class="ring" d="M5.2 6.1A2.8 2.8 0 1 1 9.4 8.5C8.4 9.1 8 9.6 8 10.6M8 12.9v1.2" />,
};

/** Glyph is a status as a shape; the words beside it say the same. */
export function Glyph({ status }: { status: StatusKey }) {
  return (
    <svg class={`glyph ${status}`} viewBox="0 0 16 16" aria-hidden="true">
      {shapes[status]}
    </svg>
  );
}
