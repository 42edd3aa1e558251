/** Summaries of repeated measurements. Throws nothing away: results keep the raw values beside the median. */

export interface Summary {
  readonly median: number
  readonly min: number
  readonly max: number
  readonly raw: ReadonlyArray<number>
}

const round = (value: number): number => Math.round(value * 100) / 100

/** Undefined for no values: what was not measured is not a number. */
export const summarize = (values: ReadonlyArray<number>): Summary | undefined => {
  if (values.length === 0) return undefined
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const median = sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
  return { median: round(median), min: round(sorted[0]!), max: round(sorted.at(-1)!), raw: values.map(round) }
}

/** A table with columns wide enough; numbers to the right, the first column to the left. */
export const table = (rows: ReadonlyArray<ReadonlyArray<string>>): string => {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
  return rows
    .map((row) =>
      row
        .map((cell, column) => (column === 0 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!)))
        .join("  ")
        .trimEnd()
    )
    .join("\n")
}
