// Turns keyturn's answer about the token into what auth_request understands: 204 with headers, 401, or else 503.
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
