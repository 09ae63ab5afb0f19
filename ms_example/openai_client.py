"""Ask a running server (`make serve`) through the openai client: a completion, and a chat that streams.

.venv/bin/python ms_example/openai_client.py --url http://127.0.0.1:30000
"""

import argparse

import openai


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:30000", help="where the server is")
    client = openai.OpenAI(base_url=f"{parser.parse_args().url}/v1", api_key="none")
    model = client.models.list().data[0].id
    completion = client.completions.create(model=model, prompt="Return a list of", max_tokens=32, temperature=0)
    print(f"completion: {completion.choices[0].text}")
    messages = [{"role": "user", "content": "What does shutil.copy do?"}]
    stream = client.chat.completions.create(model=model, messages=messages, max_tokens=32, temperature=0, stream=True)
    print("chat: ", end="")
    for piece in stream:
        print(piece.choices[0].delta.content or "", end="", flush=True)
    print()


if __name__ == "__main__":
    main()
