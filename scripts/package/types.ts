/**
 * Writes the declarations of an entry point as one file that imports nothing: classes and interfaces as they are written, what is a
 * type of Effect's spelled out. So a program is checked without `effect`, and an editor shows plain fields.
 *
 * Reads the declarations that the compiler emitted, by the JavaScript interface that TypeScript had before it became a native program. Fails, with the name,
 * where a public declaration can not be said without Effect.
 */
import path from "node:path"
import { ts } from "@ts-morph/common"

/** Members that every error of Effect has, which nobody needs to see. */
const inherited: ReadonlySet<string> = new Set(
  "name message stack cause pipe toString toJSON asEffect addListener prototype captureStackTrace stackTraceLimit prepareStackTrace isError".split(
    " "
  )
)

const indent = (text: string): string => text.replace(/^/gm, "  ")

class Rollup {
  private readonly checker: ts.TypeChecker
  /** Declarations by the name that they have in the file. */
  private readonly written = new Map<string, string>()
  private readonly names = new Map<ts.Symbol, string>()
  private readonly queue: Array<ts.Symbol> = []
  private readonly exported = new Set<string>()

  constructor(
    private readonly program: ts.Program,
    private readonly root: string
  ) {
    this.checker = program.getTypeChecker()
  }

  rollup(entry: string): string {
    const file = this.program.getSourceFile(entry)
    const module = file && this.checker.getSymbolAtLocation(file)
    if (module === undefined) throw new Error(`types: ${entry} is no module`)
    for (const symbol of this.checker.getExportsOfModule(module)) {
      const name = this.nameOf(this.resolved(symbol))
      if (name !== symbol.name) throw new Error(`types: ${symbol.name} is called ${name} where it is declared`)
      this.exported.add(name)
    }
    for (let symbol = this.queue.shift(); symbol !== undefined; symbol = this.queue.shift()) {
      try {
        this.write(symbol)
      } catch (cause) {
        throw new Error(`types: ${symbol.name} can not be said without Effect`, { cause })
      }
    }
    const header = file!.text.match(/^\/\*\*[\s\S]*?\*\//)?.[0] ?? ""
    const sorted = [...this.written].sort(([left], [right]) => (left < right ? -1 : 1))
    return `${header}\n\n${sorted.map(([, text]) => text).join("\n\n")}\n\nexport {}\n`
  }

  private resolved(symbol: ts.Symbol): ts.Symbol {
    return symbol.flags & ts.SymbolFlags.Alias ? this.checker.getAliasedSymbol(symbol) : symbol
  }

  private place(symbol: ts.Symbol): "ours" | "effect" | "other" {
    const file = symbol.declarations?.[0]?.getSourceFile().fileName
    if (file === undefined) return "other"
    if (file.includes("/node_modules/effect/")) return "effect"
    return file.startsWith(this.root) ? "ours" : "other"
  }

  private isOurs(node: ts.Node): boolean {
    return node.getSourceFile().fileName.startsWith(this.root)
  }

  /** The name of one of our declarations in the file, which will have it. */
  private nameOf(symbol: ts.Symbol): string {
    const known = this.names.get(symbol)
    if (known !== undefined) return known
    const taken = new Set(this.names.values())
    let name = symbol.name
    for (let count = 2; taken.has(name); count += 1) name = `${symbol.name}${count}`
    this.names.set(symbol, name)
    this.queue.push(symbol)
    return name
  }

  private doc(node: ts.Node | undefined): string {
    if (node === undefined) return ""
    const text = node.getSourceFile().text
    const ranges = ts.getLeadingCommentRanges(text, node.getFullStart()) ?? []
    const last = ranges.at(-1)
    const comment = last === undefined ? "" : text.slice(last.pos, last.end)
    return comment.startsWith("/**") ? `${comment.replace(/\n\s*\*/g, "\n *")}\n` : ""
  }

  private write(symbol: ts.Symbol): void {
    const name = this.nameOf(symbol)
    const prefix = this.exported.has(name) ? "export " : ""
    const parts = (symbol.declarations ?? []).map((node) => {
      if (ts.isClassDeclaration(node)) return this.classText(symbol, node, prefix, name)
      if (ts.isInterfaceDeclaration(node)) return this.interfaceText(node, prefix, name)
      if (ts.isTypeAliasDeclaration(node)) return this.aliasText(node, prefix, name)
      if (ts.isFunctionDeclaration(node))
        return `${this.doc(node)}${prefix}declare function ${name}${this.copied(node, "").replace(/^[^(<]*/, "")}`
      if (ts.isVariableDeclaration(node)) {
        // A schema: programs need its type alone, which has a declaration of its own.
        if (this.mentionsEffect(node)) return ""
        return `${this.doc(node.parent.parent)}${prefix}declare const ${name}: ${this.copied(node.type!, "const")}`
      }
      throw new Error(`types: ${symbol.name} is declared in a way that is not known here (${ts.SyntaxKind[node.kind]})`)
    })
    this.written.set(name, parts.filter((part) => part !== "").join("\n\n"))
  }

  private mentionsEffect(node: ts.Node): boolean {
    let found = false
    const look = (each: ts.Node): void => {
      if (found) return
      if (ts.isImportTypeNode(each)) {
        const symbol = this.checker.getSymbolAtLocation(each.qualifier ?? each.argument)
        if (symbol !== undefined && this.place(this.resolved(symbol)) === "effect") found = true
      }
      if (ts.isIdentifier(each)) {
        const symbol = this.checker.getSymbolAtLocation(each)
        if (symbol !== undefined && this.place(this.resolved(symbol)) === "effect") found = true
      }
      if (ts.isTypeQueryNode(each)) found = true
      ts.forEachChild(each, look)
    }
    look(node)
    return found
  }

  /** The text of a node with every name of ours as it is in the file. */
  private copied(node: ts.Node, what: string): string {
    const source = node.getSourceFile().text
    const start = node.getStart()
    const edits: Array<readonly [from: number, to: number, text: string]> = []
    const look = (each: ts.Node): void => {
      if (ts.isImportTypeNode(each)) {
        const symbol = each.qualifier && this.checker.getSymbolAtLocation(each.qualifier)
        if (symbol === undefined) throw new Error(`types: an import of ${what} is not understood: ${each.getText()}`)
        const found = this.resolved(symbol)
        const to = each.typeArguments === undefined ? each.getEnd() : each.qualifier!.getEnd()
        if (this.place(found) === "effect") throw new Error(`types: ${what} needs Effect's ${found.name}`)
        edits.push([each.getStart(), to, this.place(found) === "ours" ? this.nameOf(found) : found.name])
        for (const argument of each.typeArguments ?? []) look(argument)
        return
      }
      if (ts.isIdentifier(each)) {
        const symbol = this.checker.getSymbolAtLocation(each)
        const found = symbol && this.resolved(symbol)
        // A schema and its type have one name.
        const isNamed = found?.declarations?.some(
          (each) => ts.isInterfaceDeclaration(each) || ts.isTypeAliasDeclaration(each) || ts.isClassDeclaration(each)
        )
        if (found !== undefined && isNamed === true) {
          if (this.place(found) === "effect") throw new Error(`types: ${what} needs Effect's ${found.name}`)
          if (this.place(found) === "ours") edits.push([each.getStart(), each.getEnd(), this.nameOf(found)])
        }
        return
      }
      ts.forEachChild(each, look)
    }
    look(node)
    let text = source.slice(start, node.getEnd())
    for (const [from, to, name] of edits.sort(([left], [right]) => right - left))
      text = text.slice(0, from - start) + name + text.slice(to - start)
    const { character } = node.getSourceFile().getLineAndCharacterOfPosition(start)
    return text.replace(new RegExp(`\\n {1,${character}}`, "g"), "\n")
  }

  private heritage(node: ts.ClassDeclaration | ts.InterfaceDeclaration): string {
    return (node.heritageClauses ?? []).map((clause) => ` ${this.copied(clause, node.name!.text)}`).join("")
  }

  private parameters(node: ts.ClassDeclaration | ts.InterfaceDeclaration): string {
    if (node.typeParameters === undefined) return ""
    return `<${node.typeParameters.map((each) => this.copied(each, node.name!.text)).join(", ")}>`
  }

  private interfaceText(node: ts.InterfaceDeclaration, prefix: string, name: string): string {
    const members = node.members.map((member) => indent(this.memberText(member, name)))
    return `${this.doc(node)}${prefix}interface ${name}${this.parameters(node)}${this.heritage(node)} {\n${members.join("\n")}\n}`
  }

  private memberText(member: ts.TypeElement | ts.ClassElement, owner: string): string {
    const comment = this.doc(member)
    if (ts.isPropertySignature(member) && member.type !== undefined && this.mentionsEffect(member.type)) {
      const type = this.print(this.checker.getTypeFromTypeNode(member.type), 0)
      const isReadonly = member.modifiers?.some(({ kind }) => kind === ts.SyntaxKind.ReadonlyKeyword)
      return `${comment}${isReadonly ? "readonly " : ""}${member.name.getText()}${member.questionToken ? "?" : ""}: ${type}`
    }
    return `${comment}${this.copied(member, `${owner}.${member.name?.getText() ?? "constructor"}`)}`
  }

  private classText(symbol: ts.Symbol, node: ts.ClassDeclaration, prefix: string, name: string): string {
    const base = node.heritageClauses?.find(({ token }) => token === ts.SyntaxKind.ExtendsKeyword)?.types[0]
    const type = base && this.checker.getTypeAtLocation(base)
    const fromEffect = type !== undefined && this.basedOnEffect(type)
    if (fromEffect) return this.dataText(symbol, node, prefix, name)
    const members = node.members
      .filter((member) => {
        const isPrivate = ts
          .getModifiers(member as ts.MethodDeclaration)
          ?.some(({ kind }) => kind === ts.SyntaxKind.PrivateKeyword)
        const isInternal = this.doc(member).includes("@internal")
        return !isInternal && (isPrivate !== true || ts.isConstructorDeclaration(member))
      })
      .map((member) => {
        // A constructor that takes what only this library makes.
        if (ts.isConstructorDeclaration(member) && this.takesEffect(member)) return indent("private constructor();")
        return indent(this.memberText(member, name))
      })
    const own = members.some((member) => /private constructor/.test(member)) ? members : this.closed(node, members)
    return `${this.doc(node)}${prefix}declare class ${name}${this.parameters(node)}${this.heritage(node)} {\n${own.join("\n")}\n}`
  }

  private takesEffect(node: ts.ConstructorDeclaration): boolean {
    return node.parameters.some((parameter) => {
      const { symbol } = this.checker.getTypeAtLocation(parameter)
      return symbol !== undefined && this.place(symbol) === "effect"
    })
  }

  /** A class with private fields is known by its declaration, not by its shape. */
  private closed(node: ts.ClassDeclaration, members: ReadonlyArray<string>): ReadonlyArray<string> {
    const hides = node.members.some((member) =>
      ts.getModifiers(member as ts.MethodDeclaration)?.some(({ kind }) => kind === ts.SyntaxKind.PrivateKeyword)
    )
    return hides ? [indent("#private;"), ...members] : members
  }

  private basedOnEffect(type: ts.Type): boolean {
    if (type.symbol === undefined) return true
    if (this.place(type.symbol) === "effect") return true
    const file = type.symbol.declarations?.[0]
    if (file !== undefined && ts.isClassDeclaration(file)) {
      const base = file.heritageClauses?.find(({ token }) => token === ts.SyntaxKind.ExtendsKeyword)?.types[0]
      return base !== undefined && this.basedOnEffect(this.checker.getTypeAtLocation(base))
    }
    return false
  }

  /** An error or another class that a schema made: its fields, and what it says itself. */
  private dataText(symbol: ts.Symbol, node: ts.ClassDeclaration, prefix: string, name: string): string {
    const type = this.checker.getDeclaredTypeOfSymbol(symbol)
    const isError = type.getProperties().some((each) => each.name === "stack")
    const fields = type.getProperties().filter(({ declarations, name: field }) => {
      if (field.startsWith("__@") || field.startsWith("~")) return false
      return !inherited.has(field) || declarations?.some((each) => this.isOurs(each)) === true
    })
    const own = new Set(node.members.flatMap((member) => (member.name === undefined ? [] : [member.name.getText()])))
    const lines = fields.filter((field) => !own.has(field.name)).map((field) => indent(this.fieldText(field, 1)))
    const said = node.members.map((member) => indent(this.memberText(member, name)))
    const given = fields.filter((field) => field.name !== "_tag" && !own.has(field.name))
    const optional = given.every((field) => field.flags & ts.SymbolFlags.Optional) ? "?" : ""
    const make =
      given.length === 0
        ? "constructor()"
        : `constructor(fields${optional}: {\n${given.map((field) => indent(this.fieldText(field, 1))).join("\n")}\n})`
    const base = isError ? " extends Error" : ""
    return `${this.doc(node)}${prefix}declare class ${name}${base} {\n${[...lines, indent(make), ...said].join("\n")}\n}`
  }

  private fieldText(field: ts.Symbol, depth: number): string {
    const declaration = field.declarations?.[0]
    const optional = field.flags & ts.SymbolFlags.Optional
    const type = this.checker.getTypeOfSymbol(field)
    const shown = optional ? this.checker.getNonNullableType(type) : type
    const name = /^[A-Za-z_$][\w$]*$/.test(field.name) ? field.name : JSON.stringify(field.name)
    const nullable = optional && type.isUnion() && type.types.some(({ flags }) => flags & ts.TypeFlags.Null)
    return `${this.doc(declaration)}readonly ${name}${optional ? "?" : ""}: ${this.print(shown, depth)}${nullable ? " | null" : ""}`
  }

  /** A type in words that need no import. */
  private print(type: ts.Type, depth: number): string {
    if (depth > 12) throw new Error(`types: ${this.checker.typeToString(type)} has no end`)
    const alias = type.aliasSymbol
    if (alias !== undefined && this.place(alias) === "ours" && (type.aliasTypeArguments ?? []).length === 0) {
      return this.nameOf(alias)
    }
    if (alias !== undefined && alias.name === "Json" && this.place(alias) === "effect") return this.json()
    if (type.isUnion()) {
      const parts = type.types.map((each) => this.print(each, depth + 1))
      const unique = [...new Set(parts.map((each) => (each === "true" || each === "false" ? "boolean" : each)))]
      return (
        unique.includes("boolean") && parts.filter((each) => /^(true|false)$/.test(each)).length === 1 ? parts : unique
      ).join(" | ")
    }
    if (type.isIntersection()) {
      const kept = type.types.filter((each) => each.symbol === undefined || this.place(each.symbol) !== "effect")
      return kept.map((each) => this.print(each, depth + 1)).join(" & ")
    }
    if (!(type.flags & ts.TypeFlags.Object)) return this.checker.typeToString(type)
    return this.printObject(type as ts.ObjectType, depth)
  }

  private printObject(type: ts.ObjectType, depth: number): string {
    if (this.checker.isTupleType(type)) {
      const inner = this.checker.getTypeArguments(type as ts.TypeReference)
      const { elementFlags, readonly } = (type as ts.TypeReference).target as ts.TupleType
      const items = inner.map((each, at) => {
        const text = this.print(each, depth + 1)
        return elementFlags[at]! & ts.ElementFlags.Rest ? `...Array<${text}>` : text
      })
      return `${readonly ? "readonly " : ""}[${items.join(", ")}]`
    }
    const { symbol } = type
    const isNamed =
      symbol !== undefined && !(symbol.flags & (ts.SymbolFlags.TypeLiteral | ts.SymbolFlags.ObjectLiteral))
    if (isNamed && this.place(symbol) === "effect" && /^Json(Object|Array)$/.test(symbol.name)) return this.json()
    if (
      isNamed &&
      symbol.flags & (ts.SymbolFlags.Class | ts.SymbolFlags.Interface) &&
      this.place(symbol) !== "effect"
    ) {
      const of = this.checker.getTypeArguments(type as ts.TypeReference).map((each) => this.print(each, depth + 1))
      const name = this.place(symbol) === "ours" ? this.nameOf(symbol) : this.otherName(symbol)
      // Buffers of ours are never shared.
      return of.length === 0 || name === "Uint8Array" ? name : `${name}<${of.join(", ")}>`
    }
    if (isNamed && symbol.flags & ts.SymbolFlags.Interface && this.place(symbol) === "effect") {
      throw new Error(`types: Effect's ${symbol.name} is needed`)
    }
    if (type.getCallSignatures().length > 0) {
      const text = this.checker.typeToString(type, undefined, ts.TypeFormatFlags.NoTruncation)
      if (/effect|Effect/.test(text)) throw new Error(`types: the function ${text} needs Effect`)
      return `(${text})`
    }
    const fields = type.getProperties().filter((field) => !field.name.startsWith("__@"))
    const index = this.checker.getIndexInfosOfType(type)
    const lines = [
      ...fields.map((field) => this.fieldText(field, depth + 1)),
      ...index.map(
        ({ keyType, type: value, isReadonly }) =>
          `${isReadonly ? "readonly " : ""}[key: ${this.checker.typeToString(keyType)}]: ${this.print(value, depth + 1)}`
      )
    ]
    return lines.length === 0 ? "{}" : `{\n${lines.map(indent).join("\n")}\n}`
  }

  private otherName(symbol: ts.Symbol): string {
    const name = this.checker.getFullyQualifiedName(symbol)
    if (!/^[\w.]+$/.test(name)) throw new Error(`types: ${name} needs an import`)
    return name
  }

  private json(): string {
    this.written.set(
      "Json",
      "/** What JSON can say. */\ntype Json = null | boolean | number | string | ReadonlyArray<Json> | { readonly [key: string]: Json }"
    )
    return "Json"
  }

  private aliasText(node: ts.TypeAliasDeclaration, prefix: string, name: string): string {
    const of = node.typeParameters?.map((each) => this.copied(each, name)).join(", ")
    const head = `${this.doc(node)}${prefix}type ${name}${of === undefined ? "" : `<${of}>`} = `
    if (!this.mentionsEffect(node.type)) return `${head}${this.copied(node.type, name)}`
    const type = this.checker.getTypeFromTypeNode(node.type)
    const symbol = type.aliasSymbol
    // Its own name would be all that there is to say.
    if (symbol !== undefined && this.names.get(symbol) === name) return `${head}${this.expanded(type)}`
    return `${head}${this.print(type, 0)}`
  }

  private expanded(type: ts.Type): string {
    const { aliasSymbol } = type
    type.aliasSymbol = undefined as never
    try {
      return this.print(type, 0)
    } finally {
      type.aliasSymbol = aliasSymbol as never
    }
  }
}

/** Declarations of `entry`, a `.d.ts` below `root` where the compiler put those of all sources. */
export const rollUpTypes = (entry: string, root: string, modules: string): string => {
  const options: ts.CompilerOptions = {
    strict: true,
    exactOptionalPropertyTypes: true,
    target: ts.ScriptTarget.ESNext,
    lib: ["lib.esnext.d.ts"],
    module: ts.ModuleKind.Preserve,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
    allowImportingTsExtensions: true,
    noEmit: true,
    skipLibCheck: true,
    types: ["bun"],
    typeRoots: [path.join(modules, "@types")]
  }
  const host = ts.createCompilerHost(options)
  // The interface comes without the language's own declarations; those of the compiler are the same.
  host.getDefaultLibLocation = () => path.join(modules, "@typescript/typescript-linux-x64/lib")
  host.getDefaultLibFileName = () => path.join(modules, "@typescript/typescript-linux-x64/lib/lib.esnext.d.ts")
  const program = ts.createProgram([entry], options, host)
  return new Rollup(program, path.resolve(root)).rollup(entry)
}
