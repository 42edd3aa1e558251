/**
 * Enters the program as one compiled binary. The application is a module of its own in the binary (compiledApp.ts), so that a
 * runner and `--version` neither read nor check its five megabytes of bytecode.
 */
import { enter } from "./enter.ts"

// Built at run time, or the bundler would put it into this module.
enter(() => import(`${import.meta.dirname}/compiledApp.js`))
