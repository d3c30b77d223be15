"""The names of spans and attributes: those of OpenTelemetry's conventions for generative AI, and ours.

The conventions are not settled yet; what of them changes, changes here. A test compares them with
`opentelemetry-semantic-conventions` (0.66, schema 1.44).
"""

from __future__ import annotations

from typing import Final

PROVIDER: Final = "anthropic"

# --- operations: `gen_ai.operation.name`, and the first word of a span's name -----------------------

WORKFLOW: Final = "invoke_workflow"  # a batch
AGENT: Final = "invoke_agent"  # a session's process: a delegation, a task
CHAT: Final = "chat"  # a call of the model
TOOL: Final = "execute_tool"
TURN: Final = "turn"  # one message and all that came for it: the conventions have no word for it

# --- attributes of the conventions -------------------------------------------------------------------

OPERATION_NAME: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
WORKFLOW_NAME: Final = "gen_ai.workflow.name"
AGENT_NAME: Final = "gen_ai.agent.name"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_ID: Final = "gen_ai.response.id"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_CREATION_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
TOOL_TYPE: Final = "gen_ai.tool.type"
ERROR_TYPE: Final = "error.type"

# --- content: only where it was asked for ------------------------------------------------------------

INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
TOOL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
TOOL_RESULT: Final = "gen_ai.tool.call.result"

# --- ours --------------------------------------------------------------------------------------------

COST: Final = "cms.cost.usd"
COST_EXACT: Final = "cms.cost.exact"
OUTCOME: Final = "cms.outcome"
STATUS: Final = "cms.status"
SESSION_ID: Final = "cms.session.id"
MESSAGE_ID: Final = "cms.message.id"
MESSAGE_NUMBER: Final = "cms.message.number"
MESSAGE_TYPE: Final = "cms.message.type"
TURNS: Final = "cms.turns"
TOOL_CALLS: Final = "cms.tool_calls"
VERDICT: Final = "cms.gate.verdict"
PROVED: Final = "cms.end.proved"
TASKS: Final = "cms.batch.tasks"
COMPLETED: Final = "cms.batch.completed"
