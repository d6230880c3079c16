// The API, asked as any client does; a cookie stands for the key.

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function answer(response) {
  const text = await response.text();
  // Numbers of the API are decimal strings; JSON numbers here are counts.
  const body = text && response.headers.get("content-type")?.includes("json") ? JSON.parse(text) : {};
  if (!response.ok) throw new Refused(response.status, body.detail || `the server answered ${response.status}`);
  return body;
}

async function asked(path, given) {
  try {
    return await answer(await fetch(path, { credentials: "same-origin", ...given }));
  } catch (error) {
    if (error instanceof TypeError) throw new Refused(0, "the server does not answer");
    throw error;
  }
}

export async function get(path, query = {}) {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== undefined && each !== null && each !== "") given.append(name, each);
    }
  }
  const tail = given.size ? `?${given}` : "";
  return asked(`${path}${tail}`);
}

export async function post(path, body = {}) {
  return asked(path, {
    method: "POST",
    headers: { "content-type": "application/json", "x-beammeter-page": "1" },
    body: JSON.stringify(body),
  });
}
