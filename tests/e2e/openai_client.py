"""The official openai-python client against a server of the demo model.

    python openai_client.py URL [CHAT_URL KEY]

CHAT_URL is a server with a chat template and an API key.
"""

import asyncio
import sys

import openai
from openai import AsyncOpenAI, OpenAI

url = sys.argv[1]
client = OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
PROMPT = "Once upon a time"


def raises(kind, code=None, param=None, on=client, **arguments):
    """The call fails with this error of the client's own."""
    try:
        on.completions.create(**{"model": "demo", "prompt": PROMPT} | arguments)
    except kind as error:
        assert type(error) is kind, (type(error), kind)
        assert error.code == code and error.param == param, (error.code, error.param)
        assert error.request_id, "an error without a request id"
        return error
    raise AssertionError(f"no {kind.__name__} for {arguments}")


def completions():
    one = client.completions.create(model="demo", prompt=PROMPT, max_tokens=12, temperature=0)
    assert one.object == "text_completion" and one.id.startswith("cmpl-")
    assert one.choices[0].text.startswith(", there was")
    assert one.choices[0].finish_reason == "length"
    assert one.usage.total_tokens == one.usage.prompt_tokens + one.usage.completion_tokens == 16
    assert one.usage.prompt_tokens_details.cached_tokens >= 0
    ids = client.completions.create(
        model="demo", prompt=[[360, 361, 257, 347], [52, 258]], max_tokens=12, temperature=0)
    assert ids.choices[0].text == one.choices[0].text and len(ids.choices) == 2
    several = client.completions.create(
        model="demo", prompt=[PROMPT, "The"], n=3, best_of=4, seed=7, max_tokens=5, stop=["\n"],
        presence_penalty=0.5, frequency_penalty=-0.5, logit_bias={"1": -100}, user="someone")
    assert [choice.index for choice in several.choices] == list(range(6))
    assert several.usage.completion_tokens > 6
    defaults = client.completions.create(model="demo", prompt=PROMPT)
    assert defaults.usage.completion_tokens <= 16


def logprobs():
    answer = client.completions.create(
        model="demo", prompt="The cat sat.", max_tokens=3, echo=True, logprobs=2, temperature=0)
    found = answer.choices[0].logprobs
    assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
    assert len(found.tokens) == len(found.text_offset) == 8
    assert "".join(found.tokens) == answer.choices[0].text
    for token, offset in zip(found.tokens, found.text_offset):
        assert answer.choices[0].text[offset:].startswith(token)
    for token, logprob, top in list(zip(found.tokens, found.token_logprobs, found.top_logprobs))[1:]:
        assert top[token] == logprob and logprob <= max(top.values()) <= 0
    scored = client.completions.create(
        model="demo", prompt="The cat sat.", max_tokens=0, echo=True, logprobs=1)
    assert scored.choices[0].text == "The cat sat." and scored.usage.completion_tokens == 0


def streams():
    arguments = dict(model="demo", prompt=PROMPT, max_tokens=30, seed=1, n=2)
    whole = client.completions.create(**arguments)
    texts = ["", ""]
    ends = [None, None]
    usage = None
    for chunk in client.completions.create(
            stream=True, stream_options={"include_usage": True}, **arguments):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            ends[choice.index] = ends[choice.index] or choice.finish_reason
        usage = chunk.usage or usage
    assert texts == [choice.text for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert usage.total_tokens == whole.usage.total_tokens
    with client.completions.create(
            model="demo", prompt=PROMPT, max_tokens=250, stream=True) as stream:
        next(iter(stream))  # and leaves


def extensions():
    extra = {"top_k": 1, "min_p": 0.1, "repetition_penalty": 1.1, "min_tokens": 2,
             "ignore_eos": True, "stop_token_ids": [0], "truncate_prompt_tokens": 2,
             "return_token_ids": True, "prompt_logprobs": 1}
    answer = client.completions.create(
        model="demo", prompt=PROMPT, max_tokens=4, extra_body=extra)
    choice = answer.choices[0]
    assert len(choice.token_ids) == 4 and choice.prompt_token_ids == [257, 347]
    assert len(choice.prompt_logprobs) == 2 and choice.prompt_logprobs[0] is None


def errors():
    raises(openai.BadRequestError, param="temperature", temperature=3)
    raises(openai.BadRequestError, param="suffix", suffix="end")
    raises(openai.BadRequestError, param="n", n=17)
    raises(openai.BadRequestError, param="best_of", best_of=2, stream=True)
    raises(openai.BadRequestError, param="nonsense", extra_body={"nonsense": 1})
    raises(openai.BadRequestError, "context_length_exceeded", "max_tokens", max_tokens=10_000)
    raises(openai.NotFoundError, "model_not_found", "model", model="gpt-5")
    chat = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
    try:
        client.chat.completions.create(**chat)
        raise AssertionError("a chat without a template")
    except openai.BadRequestError as error:
        assert error.code == "no_chat_template"
    text = client.with_options(default_headers={"content-type": "text/plain"})
    try:
        text.completions.create(model="demo", prompt=PROMPT)
        raise AssertionError("text was taken for JSON")
    except openai.APIStatusError as error:
        assert error.status_code == 415


def models():
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").owned_by == "gpt2-engine"
    try:
        client.models.retrieve("other")
        raise AssertionError("a model that isn't there")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found"


def many_at_once():
    async def ask(seed):
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="unused") as asynchronous:
            answer = await asynchronous.completions.create(
                model="demo", prompt=PROMPT, max_tokens=40, seed=seed)
            return answer.choices[0].text

    async def all_of_them():
        return await asyncio.gather(*(ask(seed % 8) for seed in range(32)))

    texts = asyncio.run(all_of_them())
    assert texts[:8] * 4 == texts, "an answer depends on what runs beside it"
    assert len(set(texts)) > 1


def chats(chat_url, key):
    raises(openai.AuthenticationError, "invalid_api_key",
           on=OpenAI(base_url=f"{chat_url}/v1", api_key="wrong", max_retries=0))
    chat = OpenAI(base_url=f"{chat_url}/v1", api_key=key, max_retries=0).chat.completions
    messages = [{"role": "user", "content": PROMPT},
                {"role": "assistant", "content": [{"type": "text", "text": ", there was"}]}]
    arguments = dict(model="demo", messages=messages, max_completion_tokens=10, seed=3, n=2,
                     logprobs=True, top_logprobs=3)
    whole = chat.create(**arguments)
    assert whole.choices[0].message.role == "assistant" and len(whole.choices) == 2
    assert len(whole.choices[0].logprobs.content[0].top_logprobs) == 3
    texts = ["", ""]
    for chunk in chat.create(stream=True, **arguments):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]


checks = [completions, logprobs, streams, extensions, errors, models, many_at_once]
for check in checks:
    check()
    print(f"openai-python: {check.__name__}")
if len(sys.argv) > 2:
    chats(*sys.argv[2:])
    print("openai-python: chats")
