/** A plugin as a third party would write it: one actor, a route, a command, an option. */
import { Context, Effect, Schema, Stream } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { type Address, layerLocal } from "../../src/actors/kit/Actor.ts"
import { definePlugin } from "../../src/plugin/Plugin.ts"

class NobodyThere extends Schema.TaggedError<NobodyThere>()("NobodyThere", { who: Schema.String }) {
  override get message(): string {
    return `there is nobody called ${this.who}; greet somebody else`
  }
}

const Greeter = RpcGroup.make(
  Rpc.make("Greet", {
    payload: { who: Schema.NonEmptyString },
    success: Schema.Struct({ text: Schema.String }),
    error: NobodyThere
  }),
  Rpc.make("Count", { payload: { to: Schema.NumberFromString }, success: Schema.Int, stream: true })
)

class GreeterActor extends Context.Service<GreeterActor, Address<RpcGroup.Rpcs<typeof Greeter>>>()("greeter/Greeter") {}

export default definePlugin({
  name: "greeter",
  options: Schema.Struct({ greeting: Schema.optionalKey(Schema.NonEmptyString) }),
  address: GreeterActor,
  protocol: Greeter,
  permissions: { Greet: "greeter:greet", Count: "greeter:count" },
  layer: ({ greeting = "hello" }) =>
    layerLocal(
      GreeterActor,
      Greeter,
      Effect.succeed(
        Greeter.of({
          Greet: ({ who }) =>
            who === "nobody" ? Effect.fail(new NobodyThere({ who })) : Effect.succeed({ text: `${greeting}, ${who}` }),
          Count: ({ to }) => Rpc.fork(Stream.range(1, to))
        })
      )
    ),
  routes: [
    { method: "POST", path: "/x/greeter/:who", message: "Greet", status: 201 },
    { method: "GET", path: "/x/greeter/count", message: "Count" }
  ],
  commands: [
    {
      name: "greet",
      summary: "Greet somebody",
      message: "Greet",
      arguments: [{ field: "who", summary: "Whom to greet" }]
    }
  ]
})
