/**
 * Says whether a command line asks for help, and what of it is wrong all the same: a command or a flag that there is none of is
 * no better for a `--help` behind it. Prints nothing and obeys nothing.
 */
import type { CliError } from "effect/cli"

/** Commands of which `-h NAME` is the host name, as in other tools. */
const hostnamed: ReadonlySet<string> = new Set(["run", "create"])

const spellsHelp = (word: string): boolean => word === "--help" || word === "-h"

/** `-h` alone after a command that has an own `-h` asks for help: a value would have to follow. */
export const spelledOut = (argv: ReadonlyArray<string>): ReadonlyArray<string> =>
  argv.length === 2 && hostnamed.has(argv[0]!) && argv[1] === "-h" ? [argv[0]!, "--help"] : argv

const endOfOurs = (argv: ReadonlyArray<string>): number => (argv.includes("--") ? argv.indexOf("--") : argv.length)

export const asksForHelp = (argv: ReadonlyArray<string>): boolean =>
  argv
    .slice(0, endOfOurs(argv))
    .some((word) => word === "--help" || (/^-[A-Za-z]*h/.test(word) && !hostnamed.has(argv[0] ?? "")))

const obstacle = "--not-to-be-obeyed"

/** The same command line with a flag that nothing has: it can be read, and never runs. */
export const obstructed = (argv: ReadonlyArray<string>): ReadonlyArray<string> =>
  argv.toSpliced(endOfOurs(argv), 0, obstacle)

/** Commands and flags of an obstructed command line that there are none of; what is only missing does not matter to help. */
export const unknownWords = (
  errors: ReadonlyArray<CliError.NonShowHelpErrors>
): ReadonlyArray<CliError.NonShowHelpErrors> =>
  errors.filter(
    (error) =>
      error._tag === "UnknownSubcommand" ||
      (error._tag === "UnrecognizedOption" && error.option !== obstacle && !spellsHelp(error.option))
  )
