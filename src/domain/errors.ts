/** Gathers the errors of all parts, so that doors can match on them exhaustively. */
export { CopyFailed, FileFailed, FileNotFound, PortRefused, PortTaken } from "./errors/guestIo.ts"
export * from "./errors/image.ts"
export * from "./errors/model.ts"
export * from "./errors/plugin.ts"
export * from "./errors/server.ts"
export * from "./errors/session.ts"
export * from "./errors/store.ts"
export * from "./errors/vm.ts"
