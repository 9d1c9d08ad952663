mod farewell;
mod frames;
mod oracle;
mod random;
mod refusal;
mod script;
mod streams;
