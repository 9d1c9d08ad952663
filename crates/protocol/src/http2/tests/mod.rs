mod farewell;
mod frames;
mod oracle;
mod random;
mod reactions;
mod refusal;
mod script;
mod streams;
