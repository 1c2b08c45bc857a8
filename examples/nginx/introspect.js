// Translates keyturn's response for auth_request: 204 with headers, 401, or 503 for anything else.
async function check(r) {
    const reply = await r.subrequest('/introspect');
    if (reply.status !== 200) {
        return r.return(503);
    }
    const answer = JSON.parse(reply.responseText);
    if (answer.active !== true) {
        return r.return(401);
    }
    r.headersOut['X-Sub'] = answer.sub;
    r.headersOut['X-Scope'] = answer.scope;
    r.return(204);
}

export default { check };
