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
  const body = text ? JSON.parse(text) : {};
  if (!response.ok) throw new Refused(response.status, body.detail || `the server answered ${response.status}`);
  return body;
}

export async function get(path, query = {}, signal) {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== undefined && each !== null && each !== "") given.append(name, each);
    }
  }
  const tail = given.size ? `?${given}` : "";
  try {
    return await answer(await fetch(`${path}${tail}`, { signal, credentials: "same-origin" }));
  } catch (error) {
    if (error instanceof TypeError) throw new Refused(0, "the server does not answer");
    throw error;
  }
}

export async function post(path, body = {}) {
  return answer(
    await fetch(path, {
      method: "POST",
      credentials: "same-origin",
      headers: { "content-type": "application/json", "x-beammeter-page": "1" },
      body: JSON.stringify(body),
    }),
  );
}
