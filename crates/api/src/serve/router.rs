//! From a path and a method to what answers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use hyper::Method;

use super::{Request, Response, respond};

type Handler = Arc<dyn Fn(Request) -> Pin<Box<dyn Future<Output = Response> + Send>> + Send + Sync>;

/// Stands for any segment.
const ANY: &str = "{}";

struct Route {
    method: Method,
    path: &'static str,
    handler: Handler,
}

impl Route {
    fn has_path(&self, path: &str) -> bool {
        let mut given = path.split('/');
        self.path.split('/').all(|wanted| match given.next() {
            Some(segment) if wanted == ANY => !segment.is_empty(),
            Some(segment) => segment == wanted,
            None => false,
        }) && given.next().is_none()
    }

    fn has_method(&self, method: &Method) -> bool {
        self.method == method || (self.method == Method::GET && method == Method::HEAD)
    }
}

/// A table of exact paths.
///
/// A segment `{}` stands for any one that is not empty, which [`segment`] reads: `/connections/{}`
/// answers `/connections/17`. HEAD works where GET does;
/// another method gets 405 with what is allowed, another path 404.
#[derive(Default)]
pub struct Router {
    routes: Vec<Route>,
    gate: Option<fn(&Request) -> Option<Response>>,
}

impl Router {
    /// A table that answers everything with 404.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what answers `method` on `path`.
    #[must_use]
    pub fn on<H, F>(mut self, method: Method, path: &'static str, handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        self.routes.push(Route {
            method,
            path,
            handler: Arc::new(move |request| Box::pin(handler(request))),
        });
        self
    }

    /// Adds what answers GET and HEAD on `path`.
    #[must_use]
    pub fn get<H, F>(self, path: &'static str, handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        self.on(Method::GET, path, handler)
    }

    /// Adds what answers POST on `path`.
    #[must_use]
    pub fn post<H, F>(self, path: &'static str, handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        self.on(Method::POST, path, handler)
    }

    /// Adds what answers DELETE on `path`.
    #[must_use]
    pub fn delete<H, F>(self, path: &'static str, handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        self.on(Method::DELETE, path, handler)
    }

    /// Every method and path that is answered, in the order in which they were added; GET stands for HEAD too.
    pub fn routes(&self) -> impl Iterator<Item = (&Method, &'static str)> {
        self.routes.iter().map(|route| (&route.method, route.path))
    }

    /// Asks `gate` before every request; what it answers is sent in the place of the handler's answer.
    #[must_use]
    pub fn gated(self, gate: fn(&Request) -> Option<Response>) -> Self {
        Router { gate: Some(gate), ..self }
    }

    /// The handler for [`Bound::serve`](super::Bound::serve).
    pub fn into_handler(
        self,
    ) -> impl Fn(Request) -> Pin<Box<dyn Future<Output = Response> + Send>> + Clone + Send + Sync + 'static
    {
        let routes: Arc<[Route]> = self.routes.into();
        let gate = self.gate;
        move |request: Request| {
            if let Some(refusal) = gate.and_then(|gate| gate(&request)) {
                return Box::pin(async { refusal });
            }
            match find(&routes, request.method(), request.uri().path()) {
                Ok(handler) => handler(request),
                Err(allow) if allow.is_empty() => Box::pin(async { respond::not_found() }),
                Err(allow) => Box::pin(async move { respond::method_not_allowed(&allow) }),
            }
        }
    }
}

/// The handler of a request, or else the methods that its path does take.
fn find<'a>(routes: &'a [Route], method: &Method, path: &str) -> Result<&'a Handler, Vec<Method>> {
    let mut allow = Vec::new();
    for route in routes.iter().filter(|route| route.has_path(path)) {
        if route.has_method(method) {
            return Ok(&route.handler);
        }
        allow.push(route.method.clone());
        if route.method == Method::GET {
            allow.push(Method::HEAD);
        }
    }
    Err(allow)
}

/// The `index`-th segment of a request's path, from 0, as it was sent; empty when there are fewer.
#[must_use]
pub fn segment(request: &Request, index: usize) -> &str {
    request.uri().path().split('/').nth(index + 1).unwrap_or_default()
}
