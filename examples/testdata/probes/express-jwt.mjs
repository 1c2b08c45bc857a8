// A resource server that verifies access tokens with express-jwt and jwks-rsa.
import express from 'express';
import { expressjwt } from 'express-jwt';
import jwksRsa from 'jwks-rsa';

const [issuer, audience, port] = process.argv.slice(2);
const app = express();
app.use(expressjwt({
  secret: jwksRsa.expressJwtSecret({ jwksUri: `${issuer}/.well-known/jwks.json`, cache: true, rateLimit: true }),
  issuer,
  audience,
  algorithms: ['RS256'],
}));
app.get('/', (request, response) => response.json({ sub: request.auth.sub }));
app.use((error, request, response, next) => response.status(error.status ?? 500).end());
app.listen(Number(port), '127.0.0.1');
