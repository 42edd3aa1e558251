/** Reads and writes durations as people type them: `30s`, `5m`, `1h30m`. Pure. */

const unitsMs: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }

/** Milliseconds of `500ms`, `30s`, `5m`, `2h`, `1d` or several of these in a row; undefined for anything else. */
export const parseDuration = (text: string): number | undefined => {
  if (!/^(\d+(\.\d+)?(ms|s|m|h|d))+$/.test(text)) return undefined
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d)/g)]
  return Math.round(parts.reduce((sum, [, count, unit]) => sum + Number(count) * unitsMs[unit!]!, 0))
}

/** The shortest text that `parseDuration` reads as the same: 90,000 → `1m30s`. */
export const formatDuration = (ms: number): string => {
  let left = ms
  let text = ""
  for (const [unit, size] of Object.entries(unitsMs).toReversed()) {
    const count = Math.floor(left / size)
    if (count > 0) text += `${count}${unit}`
    left -= count * size
  }
  return text === "" ? "0s" : text
}
