// A request written as code, to take elsewhere.

/** A curl line. */
export function curl(url, body, withKey) {
  const key = withKey ? ` \\\n  -H "Authorization: Bearer $GPT2_API_KEY"` : "";
  return `curl ${shell(url)}${key} \\\n  -H 'Content-Type: application/json' \\\n  -d ${shell(JSON.stringify(body))}`;
}

/** A Python program; needs nothing but Python. */
export function python(url, body, withKey) {
  const key = withKey ? `\n        "Authorization": "Bearer " + os.environ["GPT2_API_KEY"],` : "";
  const fields = Object.entries(body).map(([name, value]) => `    ${literal(name)}: ${literal(value)},`);
  return `import json${withKey ? ", os" : ""}
from urllib.request import Request, urlopen

body = {
${fields.join("\n")}
}
request = Request(
    ${literal(url)},
    data=json.dumps(body).encode(),
    headers={
        "Content-Type": "application/json",${key}
    },
)
with urlopen(request) as answer:
    print(json.load(answer)["choices"][0]["text"])`;
}

/** Quoted for a shell: nothing is special between single quotes but they themselves. */
const shell = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** JSON's strings, numbers and lists are Python's too; true, false and null don't occur. */
const literal = (value) => JSON.stringify(value);
