/** Names the option of the JavaScript engine under which it compiles late; sets it nowhere. */

/**
 * Executions after which a function or loop is compiled; a call counts 15, a turn of a loop 1 (JavaScriptCore's
 * `thresholdForJITAfterWarmUp`, whose default is 500). Loops over data still get there in milliseconds. Read by the engine
 * from the environment, once, as a process starts.
 */
export const lateCompiling = { name: "BUN_JSC_thresholdForJITAfterWarmUp", value: "100000" } as const
