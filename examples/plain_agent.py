#!/usr/bin/env python3
"""An agent of hostler's that is not hostler's: it takes tasks in plain form from RabbitMQ, and does them here.

    hostler node add rack9 --can echo --memory 1G --user rack9      # on the server's side; prints the node's id
    AMQP_URL=amqp://rack9:secret@broker/ AGENT_ID=<the id> python3 examples/plain_agent.py

It needs pika (Debian: python3-pika). The queue of the node is made by the server; the user needs to read from it, and to
write to the exchanges `results` and `agent.telemetry`, nothing else (docs/rabbitmq.md).

What to keep in mind when this becomes a real one:

* A task comes at least once: the broker delivers it again when this program ends before it acknowledges. `done` below
  remembers what was done, in a file, so that nothing is done twice and its result is told again.
* There is one attempt, and nobody else begins the task meanwhile. What is not done is told as `ok: false`; with
  `undone: true` only if nothing of it is left, for then its room is given to others.
* What this agent will never do it rejects without requeueing: the task then fails with that reason.
* A result goes out, confirmed, before the task is acknowledged: in the other order a crash would lose it.
"""

import datetime
import json
import os
import sys
import time

import pika

HEARTBEAT_SECONDS = float(os.environ.get("HEARTBEAT_SECONDS", "10"))


def echo(data):
    """Says back what it was told."""
    time.sleep(data.get("delay_ms", 0) / 1000)
    return {"message": data["message"]}


# What this agent can do, by the task's action. A real one makes machines here.
ACTIONS = {"echo": echo}


class Done:
    """Results of the tasks that were done, one JSON line each: read at the start, added to before anything is told."""

    def __init__(self, path):
        self.results = {}
        if os.path.exists(path):
            with open(path, encoding="utf-8") as lines:
                for line in lines:
                    result = json.loads(line)
                    self.results[result["taskId"]] = result
        self.file = open(path, "a", encoding="utf-8")

    def add(self, result):
        self.results[result["taskId"]] = result
        self.file.write(json.dumps(result) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())


class Agent:
    def __init__(self, url, agent_id, done):
        self.agent_id, self.done = agent_id, done
        parameters = pika.URLParameters(url)
        # The broker vouches for this: nobody else's messages can say it (`hostler node add --user`).
        self.user = parameters.credentials.username
        self.connection = pika.BlockingConnection(parameters)
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        self.channel.basic_qos(prefetch_count=1)
        self.channel.basic_consume(f"agent.{agent_id}.tasks", self.take)

    def run(self):
        self.heartbeat()
        self.channel.start_consuming()

    def heartbeat(self):
        """The server places tasks only on nodes that it hears."""
        said = {"agentId": self.agent_id, "capabilities": sorted(ACTIONS), "version": "plain_agent.py"}
        self.publish("agent.telemetry", f"heartbeat.{self.agent_id}", said)
        self.connection.call_later(HEARTBEAT_SECONDS, self.heartbeat)

    def take(self, channel, method, _properties, body):
        task = json.loads(body)
        if task["action"] not in ACTIONS:
            print(f"{task['taskId']}: {task['action']} is not done here", flush=True)
            channel.basic_reject(method.delivery_tag, requeue=False)
            return
        result = self.done.results.get(task["taskId"])
        if result is None:
            result = self.perform(task)
            self.done.add(result)
        self.publish("results", f"task.{task['taskId']}", result, mandatory=True)
        channel.basic_ack(method.delivery_tag)
        print(f"{task['taskId']}: {'done' if result['ok'] else 'failed'}", flush=True)

    def perform(self, task):
        told = {"taskId": task["taskId"], "agentId": self.agent_id, "ok": True, "result": None, "error": None}
        try:
            told["result"] = ACTIONS[task["action"]](task["data"])
        except Exception as error:  # whatever it was, the server is to know
            told.update(ok=False, error=f"{type(error).__name__}: {error}", undone=True)
        now = datetime.datetime.now(datetime.timezone.utc)
        return told | {"finishedAt": now.isoformat().replace("+00:00", "Z")}

    def publish(self, exchange, key, said, mandatory=False):
        # Kept on the broker's disk. With confirm_delivery this returns when the broker has it, and raises when not.
        kept = pika.BasicProperties(content_type="application/json", delivery_mode=2, user_id=self.user)
        self.channel.basic_publish(exchange, key, json.dumps(said).encode(), kept, mandatory=mandatory)


def main():
    url, agent_id = os.environ["AMQP_URL"], os.environ["AGENT_ID"]
    done = Done(os.environ.get("DONE_FILE", f"done-{agent_id}.jsonl"))
    while True:
        try:
            agent = Agent(url, agent_id, done)
            print("taking tasks", flush=True)
            agent.run()
        except (pika.exceptions.AMQPError, OSError) as error:
            print(f"the broker is not there ({type(error).__name__}); trying again", file=sys.stderr, flush=True)
            time.sleep(1)


if __name__ == "__main__":
    main()
