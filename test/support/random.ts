/** Numbers that look random and repeat with their seed. */

/** The seed of this run: `SEED` in the environment, else drawn. Print it with the test's name. */
export const seedOf = (test: string): number => {
  const seed = Number(process.env["SEED"] ?? Math.floor(Math.random() * 2 ** 31))
  console.log(`${test}: SEED=${seed}`)
  return seed
}

/** Whole numbers below a bound (mulberry32: small, fast, good enough for tests). */
export const generator = (seed: number) => {
  let state = seed
  return (below: number): number => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}
